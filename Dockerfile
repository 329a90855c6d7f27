# The image of the agent and of the scaler: nats-launch in a virtual environment, and nothing else on top of BASE.
#
# Built by `make image`, which fills build/wheels first, so that this needs no network. BASE is any image with Python
# 3.11 or newer and glibc; wheels are fetched for the Python that it has.

ARG BASE=python:3.11-slim

FROM ${BASE} AS build
LABEL launch.image=agent
COPY build/wheels /wheels
# pip runs from its own wheel: a base without pip will do.
RUN python3 -m venv --without-pip /opt/launch \
 && /opt/launch/bin/python "$(echo /wheels/pip-*.whl)/pip" install --quiet --no-cache-dir --no-index \
        --find-links /wheels --requirement /wheels/requirements.txt \
 && mkdir -p /var/lib/launch

FROM ${BASE}
LABEL launch.image=agent
COPY --from=build /opt/launch /opt/launch
# Numbers, not names: the base need not know the user, and a volume mounted here starts out as theirs.
COPY --from=build --chown=10001:10001 /var/lib/launch /var/lib/launch
ENV PATH=/opt/launch/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/launch \
    LAUNCH_DATA_DIR=/var/lib/launch \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/launch
VOLUME /var/lib/launch
# The agent needs the engine's socket and nothing else of root: give it the socket's group (--group-add).
USER 10001:10001
ENTRYPOINT ["launch"]
CMD ["agent", "--help"]
