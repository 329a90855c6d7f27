"""EC2's words: a call's form in, XML out; and how what moto answers is changed into what AWS would."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15"
_NS = {"e": NAMESPACE}
_CREDENTIAL = re.compile(r"Credential=[^/]+/[^/]+/(?P<region>[^/]+)/(?P<service>[^/]+)/")
_NOT_THE_REQUEST = frozenset({"Action", "Version", "ClientToken", "DryRun"})

ET.register_namespace("", NAMESPACE)


def scope(authorization: str) -> tuple[str, str]:
    """The region and the service that a signature is for; empty if there is none."""
    found = _CREDENTIAL.search(authorization)
    return (found["region"], found["service"]) if found else ("", "")


def signature(region: str) -> str:
    """What moto finds EC2 by; it checks nothing."""
    return f"AWS4-HMAC-SHA256 Credential=testing/20260101/{region}/ec2/aws4_request, SignedHeaders=host, Signature=none"


def form(body: bytes) -> dict[str, str]:
    """A call's parameters."""
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def listed(parameters: Mapping[str, str], prefix: str) -> list[str]:
    """`Prefix.1`, `Prefix.2` … in order."""
    numbered = [
        (int(key.removeprefix(f"{prefix}.")), value)
        for key, value in parameters.items()
        if key.startswith(f"{prefix}.") and key.removeprefix(f"{prefix}.").isdigit()
    ]
    return [value for _, value in sorted(numbered)]


def filters(parameters: Mapping[str, str]) -> dict[str, list[str]]:
    """The filters of a call that describes."""
    found: dict[str, list[str]] = {}
    for key, name in parameters.items():
        if match := re.fullmatch(r"(Filter\.\d+)\.Name", key):
            found[name] = listed(parameters, f"{match[1]}.Value")
    return found


def with_filters(parameters: Mapping[str, str], wanted: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The same call with these filters in the place of its own."""
    changed = {key: value for key, value in parameters.items() if not key.startswith("Filter.")}
    for number, (name, values) in enumerate(wanted.items(), 1):
        changed[f"Filter.{number}.Name"] = name
        changed |= {f"Filter.{number}.Value.{index}": value for index, value in enumerate(values, 1)}
    return changed


def instance_tags(parameters: Mapping[str, str]) -> dict[str, str]:
    """The tags that a launch gives to its instances."""
    tags = {}
    for key, kind in parameters.items():
        match = re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", key)
        if match is None or kind != "instance":
            continue
        for name_key, name in parameters.items():
            if found := re.fullmatch(re.escape(match[1]) + r"\.Tag\.(\d+)\.Key", name_key):
                tags[name] = parameters.get(f"{match[1]}.Tag.{found[1]}.Value", "")
    return tags


def user_data(parameters: Mapping[str, str]) -> str:
    """What the instance will run first."""
    return base64.b64decode(parameters.get("UserData", "")).decode(errors="replace")


def fingerprint(parameters: Mapping[str, str]) -> str:
    """The same for calls that ask for the same."""
    told = sorted((key, value) for key, value in parameters.items() if key not in _NOT_THE_REQUEST)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def error(code: str, message: str) -> bytes:
    """An error as EC2 says it."""
    root = ET.Element("Response")
    said = ET.SubElement(ET.SubElement(root, "Errors"), "Error")
    ET.SubElement(said, "Code").text = code
    ET.SubElement(said, "Message").text = message
    ET.SubElement(root, "RequestID").text = "from-the-fault-proxy"
    return _bytes(root)


def said(body: bytes) -> tuple[str, str]:
    """The code and the message of an error."""
    root = _parse(body)
    return root.findtext(".//{*}Code", "InternalError"), root.findtext(".//{*}Message", "")


def console_output(instance_id: str, text: str, at: str) -> bytes:
    """The answer of `GetConsoleOutput`."""
    root = ET.Element(f"{{{NAMESPACE}}}GetConsoleOutputResponse")
    ET.SubElement(root, f"{{{NAMESPACE}}}requestId").text = "from-the-fault-proxy"
    ET.SubElement(root, f"{{{NAMESPACE}}}instanceId").text = instance_id
    ET.SubElement(root, f"{{{NAMESPACE}}}timestamp").text = at
    ET.SubElement(root, f"{{{NAMESPACE}}}output").text = base64.b64encode(text.encode()).decode()
    return _bytes(root)


def launched(body: bytes) -> list[tuple[str, str]]:
    """The ids and zones in the answer of a launch."""
    return [
        (_text(item, "e:instanceId"), _text(item, "e:placement/e:availabilityZone"))
        for item in _parse(body).iterfind("e:instancesSet/e:item", _NS)
    ]


def zones_by_subnet(body: bytes) -> dict[str, str]:
    """From the answer of `DescribeSubnets`."""
    return {
        _text(item, "e:subnetId"): _text(item, "e:availabilityZone")
        for item in _parse(body).iterfind("e:subnetSet/e:item", _NS)
    }


def rewrite(body: bytes, keep: Callable[[str, ET.Element], bool]) -> bytes:
    """An answer of `DescribeInstances` with only the instances that `keep` is true for; it may change them."""
    root = _parse(body)
    reservations = root.find("e:reservationSet", _NS)
    for reservation in list(reservations) if reservations is not None else []:
        instances = reservation.find("e:instancesSet", _NS)
        assert instances is not None
        assert reservations is not None
        for item in list(instances):
            if not keep(_text(item, "e:instanceId"), item):
                instances.remove(item)
        if not len(instances):
            reservations.remove(reservation)
    return _bytes(root)


def put(item: ET.Element, path: str, text: str) -> None:
    """Set the text of an element below `item`, made if it is not there; `path` as in `stateReason/code`."""
    for name in path.split("/"):
        below = item.find(f"e:{name}", _NS)
        item = ET.SubElement(item, f"{{{NAMESPACE}}}{name}") if below is None else below
    item.text = text


def put_changes(body: bytes, changes: Mapping[str, tuple[int, str]]) -> bytes:
    """An answer of `TerminateInstances` with these states as the current ones."""
    root = _parse(body)
    for item in root.iterfind("e:instancesSet/e:item", _NS):
        code, name = changes[_text(item, "e:instanceId")]
        put(item, "currentState/code", str(code))
        put(item, "currentState/name", name)
    return _bytes(root)


def _bytes(root: ET.Element) -> bytes:
    return bytes(ET.tostring(root, xml_declaration=True, encoding="utf-8"))


def _parse(body: bytes) -> ET.Element:
    return ET.fromstring(body)  # noqa: S314 - moto's own words


def _text(item: ET.Element, path: str) -> str:
    return item.findtext(path, "", _NS)
