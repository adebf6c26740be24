"""The routes: publish, subscribe, history, WebSocket, and what is around them."""
