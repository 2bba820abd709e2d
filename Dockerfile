# The serving image: the runtime alone (no torch, no pip in its environment), a user without rights, writing to /data only.
# BASE is any image with Python 3.11 or newer and pip, for `python3 -m pip`: deploy/image-check.sh builds on a bare Debian.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv --without-pip /app/venv
# The dependencies first: this layer stays as it is while only the code changes.
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /tmp/runtime.txt \
    && python3 -m pip --python /app/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement /tmp/runtime.txt
COPY README.md ./
COPY export export
COPY guards guards
COPY service service
RUN python3 -m pip --python /app/venv/bin/python install --no-cache-dir --no-deps .

FROM ${BASE}
COPY --from=build /app/venv /app/venv
COPY policy.toml /app/policy.toml
COPY policies /app/policies
RUN install --directory --owner=65532 --group=65532 --mode=0700 /data
# Python's byte code was compiled at build time; at run time the root file system may be read-only.
ENV PATH=/app/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 65532:65532
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8080/ready', timeout=2)"]
ENTRYPOINT ["actd"]
CMD ["serve", "/app/policy.toml", "--host", "0.0.0.0", "--port", "8080", "--data", "/data"]
