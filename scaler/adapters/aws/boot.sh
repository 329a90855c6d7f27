say() { printf 'nats-launch: %s\n' "$*"; }

# Runs a command; what it wrote is told only if it fails, and only the end of that.
told() {
    local text code
    "$@" >"$folder/told" 2>&1 && return
    code=$?
    text=$(<"$folder/told")
    [ "${#text}" -le 1000 ] || text="... ${text: -1000}"
    printf '%s\n' "$text" | sed "s/^/nats-launch: $1: /"
    return "$code"
}

power_off() {
    say "powering off: $*"
    sync
    shutdown -h now || poweroff
    exit 0
}

install_one_of() {
    local name
    for name in "$@"; do
        if command -v dnf >/dev/null; then dnf -q -y install "$name" && return
        elif command -v yum >/dev/null; then yum -q -y install "$name" && return
        elif command -v apt-get >/dev/null; then
            { DEBIAN_FRONTEND=noninteractive apt-get -q -y install "$name" ||
                { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install "$name"; }; } && return
        fi
    done
    return 1
}

# Version 2 of the metadata service, the only one that these instances have.
instance_id() {
    local token
    token=$(curl -sf -m 5 --retry 10 --retry-connrefused -X PUT "$imds/latest/api/token" \
        -H 'X-aws-ec2-metadata-token-ttl-seconds: 300') &&
        curl -sf -m 5 --retry 10 --retry-connrefused -H "X-aws-ec2-metadata-token: $token" \
            "$imds/latest/meta-data/instance-id"
}

start_docker() {
    local try
    if ! command -v docker >/dev/null; then
        say "installing Docker"
        told install_one_of docker docker.io || { say "Docker can't be installed"; return 1; }
    fi
    for try in 1 2 3 4 5 6 7 8 9 10; do
        docker info >/dev/null 2>&1 && return
        if [ "$try" = 1 ]; then
            say "starting Docker"
            systemctl start docker || service docker start
        fi
        sleep 2
    done
    say "Docker does not answer"
    return 1
}

ecr_login() {
    # Without `pipefail`, what the first one says still tells why the second one fails.
    aws ecr get-login-password --region "$ecr_region" |
        docker login --username AWS --password-stdin "$ecr_host" >/dev/null
}

log_in() {
    [ -n "$ecr_host" ] || return 0
    if ! command -v docker-credential-ecr-login >/dev/null && ! command -v aws >/dev/null; then
        told install_one_of amazon-ecr-credential-helper awscli-2 awscli
    fi
    if command -v docker-credential-ecr-login >/dev/null; then
        mkdir -p "$DOCKER_CONFIG"
        printf '{"credHelpers": {"%s": "ecr-login"}}\n' "$ecr_host" >"$DOCKER_CONFIG/config.json"
    elif command -v aws >/dev/null; then
        told ecr_login
    else
        say "there is neither an ECR credential helper nor the AWS CLI"
        return 1
    fi
}

get_image() {
    say "pulling $image"
    log_in || say "can't log in to $ecr_host; does the instance have an IAM profile that may read from it?"
    if told docker pull -q "$image"; then
        say "pulled after ${SECONDS} s"
    elif docker image inspect "$image" >/dev/null 2>&1; then
        say "can't pull $image; going on with the one that is here"
    else
        say "can't pull $image"
        return 1
    fi
}

run_agent() {
    local id=$1 kilobytes code
    kilobytes=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
    docker rm -f nats-launch-agent >/dev/null 2>&1
    told docker run -d --name nats-launch-agent --network host "${docker_options[@]}" \
        --group-add "$(stat -c %g /var/run/docker.sock 2>/dev/null || echo 0)" \
        -v /var/run/docker.sock:/var/run/docker.sock -v nats-launch-agent:/var/lib/launch \
        -e "AWS_EC2_METADATA_SERVICE_ENDPOINT=$imds" --log-opt max-size=10m --log-opt max-file=3 \
        "$image" "${agent_options[@]}" --agent-id "$id" --instance "$id" \
        --memory "$((kilobytes * 1024 - reserve_bytes))" || return 125
    say "the agent was started after ${SECONDS} s"
    code=$(docker wait nats-launch-agent) || code=255
    [ "$code" = 0 ] || docker logs --tail 30 nats-launch-agent 2>&1 | sed 's/^/nats-launch: agent: /'
    return "${code:-255}"
}

# Until the agent leaves by itself. A crash starts it again, and it finds its containers; what can't ever work ends
# within the hour, even if nobody is left who would end it.
serve() {
    local id='' failures=0 began code
    while :; do
        began=$SECONDS
        if [ -n "$id" ] || id=$(instance_id) && [ -n "$id" ]; then
            if start_docker && get_image; then
                run_agent "$id" && code=0 || code=$?
                [ "$code" != 0 ] || power_off "the agent has left"
                say "the agent ended with $code"
            fi
        else
            say "no instance id at $imds"
        fi
        [ $((SECONDS - began)) -lt 300 ] || failures=0
        failures=$((failures + 1))
        [ "$failures" -lt 60 ] || power_off "gave up after $failures failures in a row"
        sleep "$((failures < 12 ? failures * 5 : 60))"
    done
}

export DOCKER_CONFIG="$folder/docker" HOME="${HOME:-/root}"
if [ "${1:-}" = serve ]; then
    serve
fi
say "booting"
mkdir -p "$folder"
prepare
if [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && [ -z "${NATS_LAUNCH_FOREGROUND:-}" ]; then
    # Images of ECS bring an agent of their own, which has no cluster here.
    systemctl disable --now --no-block ecs >/dev/null 2>&1
    cp "$0" "$folder/boot"
    cat >/etc/systemd/system/nats-launch-agent.service <<UNIT
[Unit]
Description=nats-launch agent
After=docker.service
[Service]
ExecStart=/bin/bash $folder/boot serve
Restart=always
RestartSec=5
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --now --no-block nats-launch-agent.service
else
    serve
fi
