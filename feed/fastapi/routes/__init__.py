"""The routes: publish, subscribe, history, WebSocket, sessions, administration."""
