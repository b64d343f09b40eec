"""A credentials file of AWS as a worker reads it: the same for those that the agent finds and those a pod has mounted.

A worker gets the text of such a file, and always with a named profile: then nothing in its environment comes before it.
"""

from __future__ import annotations

import configparser
import re
from typing import Final

from agent.base.errors import LocationInvalid

DEFAULT_PROFILE: Final = "default"
CREDENTIALS_FILE_VARIABLE: Final = "AWS_SHARED_CREDENTIALS_FILE"
"""Names the file of an agent, which its mover pods have mounted, too."""
_CONFIG_STYLE = re.compile(r"^\[[ \t]*profile[ \t]+([^\]\n]*?)[ \t]*\][ \t]*$", re.MULTILINE)


def aws_credentials(value: bytes, profile: str, origin: str) -> str:
    """The text of a credentials file as the worker reads it, with a section for `profile` (empty: the default one).

    Sections in the style of a config file (`[profile x]`) become `[x]`. Raises `LocationInvalid`, which never quotes
    the text: it holds secrets.
    """
    wanted = profile or DEFAULT_PROFILE
    try:
        text = value.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise LocationInvalid(f"{origin} is no text, so it is no credentials file") from None
    plain = _sections(text, origin)
    if wanted not in plain:
        text = _CONFIG_STYLE.sub(lambda m: m.group(0) if m.group(1) in plain else f"[{m.group(1)}]", text)
    if wanted not in _sections(text, origin):
        raise LocationInvalid(
            f"{origin} has no profile [{wanted}]",
            hint="write [default], aws_access_key_id = … and aws_secret_access_key = … on lines of their own",
        )
    return text


def _sections(text: str, origin: str) -> list[str]:
    parser = configparser.RawConfigParser(default_section="\0")
    try:
        parser.read_string(text)
    except (configparser.Error, ValueError) as error:
        raise LocationInvalid(
            f"{origin} is no credentials file ({type(error).__name__})",
            hint="write [default], aws_access_key_id = … and aws_secret_access_key = … on lines of their own",
        ) from None
    return parser.sections()
