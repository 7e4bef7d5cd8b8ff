"""Write completions of `skingpt` for bash, zsh and fish: `python completions.py FOLDER`.

The files lie as below /usr/share, where each shell of Debian looks for them; none of them starts `skingpt`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab
from skingpt_edge.runtime.cli import make_parser
from skingpt_edge.runtime.cli.arguments import bundle_folder, file_path
from skingpt_edge.runtime.install.store import STORE_VARIABLE, SYSTEM_STORE

PLACES = {
    "bash": "bash-completion/completions/skingpt",
    "zsh": "zsh/vendor-completions/_skingpt",
    "fish": "fish/vendor_completions.d/skingpt.fish",
}
# Names of installed bundles, a line each: the folders that hold a version. As runtime/install/store.py finds them.
SH_NAMES = f"""
_skingpt_bundle_names() {{
  local store file
  for store in "${{{STORE_VARIABLE}:-${{XDG_DATA_HOME:-$HOME/.local/share}}/skingpt-edge/bundles}}" {SYSTEM_STORE}; do
    command find "$store" -mindepth 3 -maxdepth 3 -name bundle.json 2>/dev/null | while read -r file; do
      file="${{file#"$store"/}}"
      echo "${{file%%/*}}"
    done
  done
}}
"""
FISH_NAMES = f"""
function _skingpt_bundle_names
  set -l data $HOME/.local/share
  set -q XDG_DATA_HOME; and set data $XDG_DATA_HOME
  set -l own $data/skingpt-edge/bundles
  set -q {STORE_VARIABLE}; and set own ${STORE_VARIABLE}
  for store in $own {SYSTEM_STORE}
    for file in (command find $store -mindepth 3 -maxdepth 3 -name bundle.json 2>/dev/null)
      basename (dirname (dirname $file))
    end
  end
end
"""
BASH = """
_skingpt_name() { compgen -W "$(_skingpt_bundle_names)" -- "$1"; }
_skingpt_bundle() { _skingpt_name "$1"; compgen -d -- "$1"; }
"""
ZSH = """
_skingpt_name() { local -aU names; names=(${(f)"$(_skingpt_bundle_names)"}); compadd -a names }
_skingpt_bundle() { _skingpt_name; _files -/ }
"""
PREAMBLE = {"bash": SH_NAMES + BASH, "zsh": SH_NAMES + ZSH, "fish": FISH_NAMES}
NAME = {"bash": "_skingpt_name", "zsh": "_skingpt_name", "fish": "(_skingpt_bundle_names)", "preamble": PREAMBLE}
BUNDLE = {
    "bash": "_skingpt_bundle",
    "zsh": "_skingpt_bundle",
    "fish": "(_skingpt_bundle_names; __fish_complete_directories)",
    "preamble": PREAMBLE,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write completions of `skingpt` for bash, zsh and fish.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="such as STAGED/usr/share")
    folder: Path = parser.parse_args().folder
    for shell, place in PLACES.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(completion(shell))


def completion(shell: str) -> str:
    """The completion script for a shell."""
    parser = make_parser()
    for action in _arguments(parser):
        if values := _values(action):
            action.complete = values  # type: ignore[attr-defined] # shtab reads it
    return shtab.complete(parser, shell)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)
        else:
            yield action


def _values(action: argparse.Action) -> object:
    """What an argument's value can be completed to."""
    if action.type is bundle_folder:
        return BUNDLE
    if action.type in (Path, file_path):
        return shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
    return NAME if action.metavar == "NAME" else None


if __name__ == "__main__":
    main()
