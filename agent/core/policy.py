"""Whether a job is allowed on this agent: policy and job in, the rules that say no out.

Pure. What the job itself asks for is looked at before it is claimed; the user that its image brings, once the image is
there. Nothing here changes a job to make it fit: it is run as it is, or refused with what to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agent.core.secret_source import references, variable_of
from launch.core.image_patterns import matches
from launch.core.quantity import show_duration, show_memory
from launch.core.registry import parse_image
from launch.fields import SecretRef
from launch.job import JobSpec, Mount
from launch.policy import AgentPolicy, CapabilityRules, ImageRules, Limits, MountRule, UserRules
from launch.queue import QueueSpec

SHOWN = 10
"""So many allowed things a message lists."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Denial:
    """One rule of `agent.yaml` that a job does not keep: its key, what was found, and what is allowed."""

    rule: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"this agent's policy, {self.rule}: found {self.found}; allowed: {self.allowed}"


def denials(spec: JobSpec, policy: AgentPolicy, queue: QueueSpec | None = None) -> tuple[Denial, ...]:
    """The rules that the job, queue defaults included, does not keep; none if it is allowed.

    With its `queue`, no job gets the password of a registry that this names, unless its defaults hand that out.
    """
    asked = [] if spec.user in (None, "") else _user(spec.user or "", policy, "user")
    return (
        *_image(spec.image, policy.images),
        *asked,
        *_network(spec.network, policy.networks),
        *_mounts(spec.mounts, policy.mounts),
        *_put_by_root(spec, policy.users),
        *_devices(spec.devices, policy.devices),
        *_capabilities(spec.capabilities, policy.capabilities),
        *_limits(spec, policy.limits),
        *_secrets(spec, policy.secrets),
        *(_passwords(spec, queue) if queue is not None else ()),
        *_inputs(spec, policy.inputs),
    )


def user_denials(spec: JobSpec, image_user: str, policy: AgentPolicy) -> tuple[Denial, ...]:
    """The same for the user that the container will have, now that the image is known."""
    if spec.user:
        return tuple(_user(spec.user, policy, "user"))
    return tuple(_user(image_user, policy, "the image's user"))


def account(found: Iterable[Denial]) -> str:
    """The denials in words, a line each."""
    return "\n".join(map(str, found))


# -- the rules --------------------------------------------------------------------------------------------------------


def _image(text: str, rules: ImageRules) -> Iterator[Denial]:
    if rules.open:
        return
    image = parse_image(text)
    if image is None:
        yield Denial("images", f"'{text[:200]}'", "an image's name with its tag or digest (no id), in lower case")
        return
    if rules.by_digest and not (image.digest and _DIGEST.fullmatch(image.digest)):
        yield Denial("images.by_digest", str(image), "an image named by its digest, …@sha256:…")
    for pattern in rules.deny:
        if matches(pattern, image):
            yield Denial("images.deny", str(image), f"none of {_listed(rules.deny)}")
            break
    if not any(matches(pattern, image) for pattern in rules.allow):
        yield Denial("images.allow", str(image), _listed(rules.allow))


def _user(text: str, policy: AgentPolicy, what: str) -> Iterator[Denial]:
    """A name is not taken where users are restricted: the image says which number it stands for, even 0."""
    rules = policy.users
    if rules.open:
        return
    user = text.partition(":")[0]
    uid = int(user) if _NUMBER.fullmatch(user) else None
    found = f"{what} '{text[:80]}'" if text else f"{what} unset, which is root"
    if user == "":
        uid = 0
    if not rules.allow_root and (uid is None or uid == 0):
        yield Denial("users.allow_root", found, "user: a number that is not 0, such as 1000:1000")
    elif rules.uids is not None and uid not in rules.uids:
        yield Denial("users.uids", found, f"user: {_listed([str(one) for one in rules.uids])}")


def _network(name: str | None, allowed: Sequence[str]) -> Iterator[Denial]:
    if name is not None and name not in (*allowed, "none"):
        yield Denial("networks", f"network '{name}'", _listed([*allowed, "none"]))


def _mounts(asked: Sequence[Mount], allowed: Mapping[str, MountRule]) -> Iterator[Denial]:
    for mount in asked:
        rule = allowed.get(mount.name)
        if rule is None:
            yield Denial("mounts", f"mount '{mount.name}'", _listed(list(allowed)))
        elif mount.writable and not rule.writable:
            yield Denial(f"mounts.{mount.name}", "writable: true", "to read it")


def _put_by_root(spec: JobSpec, rules: UserRules) -> Iterator[Denial]:
    """Code and inputs are unpacked by the engine, as root, with the modes that they say and through the image's links.

    So no path tells whether they end up in a mount, and who may not be root there must not have them beside one.
    """
    mounts = [mount.name for mount in spec.mounts if mount.writable]
    put = ["code"] if spec.code is not None else []
    put += [f"an input at {given.path[:80]}" for given in spec.inputs if given.path is not None][:1]
    if mounts and put and not rules.open:
        found = f"{' and '.join(put)} beside the writable mount '{mounts[0]}'"
        yield Denial(
            "users", found, "none of that with a writable mount: root unpacks it, in the mount if a link says so"
        )


def _devices(asked: Sequence[str], allowed: Mapping[str, object]) -> Iterator[Denial]:
    for name in asked:
        if name not in allowed:
            yield Denial("devices", f"device '{name}'", _listed(list(allowed)))


def _capabilities(asked: Sequence[str], rules: CapabilityRules) -> Iterator[Denial]:
    allowed = rules.had.union(rules.allow)
    for name in asked:
        if name not in allowed:
            yield Denial("capabilities.allow", name, _listed(rules.allow))


def _limits(spec: JobSpec, limits: Limits) -> Iterator[Denial]:
    asked = spec.resources
    if limits.cpu is not None and (asked.cpu is None or asked.cpu > limits.cpu):
        yield _too_much("cpu", "resources.cpu", None if asked.cpu is None else f"{asked.cpu:g}", f"{limits.cpu:g}")
    if limits.memory is not None and (asked.memory is None or asked.memory > limits.memory):
        found = None if asked.memory is None else show_memory(asked.memory)
        yield _too_much("memory", "resources.memory", found, show_memory(limits.memory))
    if limits.gpu is not None and asked.gpu > limits.gpu:
        yield _too_much("gpu", "resources.gpu", str(asked.gpu), str(limits.gpu))
    if limits.shm_size is not None and spec.shm_size is not None and spec.shm_size > limits.shm_size:
        yield _too_much("shm_size", "shm_size", show_memory(spec.shm_size), show_memory(limits.shm_size))
    if limits.timeout is not None and (spec.timeout is None or spec.timeout > limits.timeout):
        found = None if spec.timeout is None else show_duration(spec.timeout)
        yield _too_much("timeout", "timeout", found, show_duration(limits.timeout))
    if spec.stop_grace > limits.stop_grace:
        yield _too_much("stop_grace", "stop_grace", show_duration(spec.stop_grace), show_duration(limits.stop_grace))


def _too_much(rule: str, key: str, found: str | None, most: str) -> Denial:
    """`found` is None where the job says nothing, and so would be without a limit."""
    return Denial(f"limits.{rule}", f"{key} {found or 'unset, which is without limit'}", f"{key} of at most {most}")


def _secrets(spec: JobSpec, allowed: Sequence[str]) -> Iterator[Denial]:
    for variable, name in references(spec).items():
        if not any(_compiled(pattern).fullmatch(name) for pattern in allowed):
            yield Denial("secrets", f"secret '{name}' for {variable}", _listed(allowed))


def _passwords(spec: JobSpec, queue: QueueSpec) -> Iterator[Denial]:
    """Names that one variable of the environment stands for are one secret."""
    kept = {variable_of(one.password.secret) for one in queue.registry_auth.values() if one != "ecr"}
    given = (value.secret for value in queue.defaults.env.values() if isinstance(value, SecretRef))
    kept.difference_update(map(variable_of, given))
    for variable, name in references(spec).items():
        if variable_of(name) in kept:
            found = f"secret '{name}' for {variable}"
            yield Denial("the queue's registry_auth", found, "secrets that are no registry's password")


def _inputs(spec: JobSpec, allowed: Sequence[str] | None) -> Iterator[Denial]:
    for place in (one.s3 for one in spec.inputs if one.s3 is not None and allowed is not None):
        if not any(place == prefix or place.startswith(f"{prefix}/") for prefix in allowed or ()):
            yield Denial("inputs", place[:200], _listed(allowed or ()))


def _listed(words: Sequence[str]) -> str:
    """The words, within bounds."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return (", ".join(words[:SHOWN]) + more) or "none"


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    words = {"*": ".*", "?": "."}
    return re.compile("".join(words.get(part) or re.escape(part) for part in re.split(r"([*?])", pattern)))
