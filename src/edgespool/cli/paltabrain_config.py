"""`paltabrain-sdk-download-config`: fetches the config module that PaltaBrain generates for an account."""

from __future__ import annotations

import click

from ..vendors.paltabrain.download import download
from .exits import Exit, epilog
from .output import count, say

__all__ = ["paltabrain_config"]


@click.command(
    epilog=epilog(
        {
            Exit.OK: "the config module is in the folder",
            Exit.ATTENTION: "it could not be fetched or written, or is not safe to unpack; nothing was changed",
        }
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("module_path", metavar="MODULE_PATH", type=click.Path())
@click.option("--hostname", envvar="PALTABRAIN_SDK_HOSTNAME", help="The account's host; or PALTABRAIN_SDK_HOSTNAME.")
@click.option("--api-key", envvar="PALTABRAIN_SDK_API_KEY", help="The account's key; or PALTABRAIN_SDK_API_KEY.")
@click.option("--overwrite", is_flag=True, help="Replace a config module that is there already.")
def paltabrain_config(module_path: str, hostname: str | None, api_key: str | None, overwrite: bool) -> int:
    """Download the config module of a PaltaBrain account into the folder MODULE_PATH.

    Rather give the key in the environment: a command line can be seen by every user of the machine.
    """
    files = download(hostname, api_key, module_path, overwrite)
    say(f"{module_path}: {count(len(files), 'file')}")
    return Exit.OK
