# feed in a container: slim, not root, its log in the volume /data.
#
#   docker build -t feed .
#   docker run -p 8000:8000 -v feed:/data -e FEED_JWT_SECRET=… feed
#
# Not tried as a whole: there was no container engine where it was written. What it is made of is tested: the wheel in an
# environment of its own, the command, the settings and the health check (tests/test_packaging.py).

FROM python:3.13-slim AS build
WORKDIR /source
# What the feed stands on, as it is locked, and in a layer of its own: it changes more rarely than the feed.
COPY requirements/server.txt requirements/
RUN python -m venv /opt/feed && /opt/feed/bin/pip install --no-cache-dir --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY feed feed
COPY web web
RUN /opt/feed/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --create-home feed
COPY --from=build /opt/feed /opt/feed
USER feed
WORKDIR /data
VOLUME /data
# Reachable from other machines, so that it wants a key and does not start without one.
ENV PATH=/opt/feed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FEED_HOST=0.0.0.0 \
    FEED_PORT=8000 \
    FEED_LOG=sqlite:/data/feed.db
EXPOSE 8000
# Longer than FEED_DRAIN has to be the time that the engine leaves it: docker stop --time 20, stop_grace_period, …
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"FEED_PORT\"]}/healthz', timeout=4)"]
ENTRYPOINT ["feed"]
CMD ["serve"]
