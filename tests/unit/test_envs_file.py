"""Environment files: what is read, and the one line that says what is wrong and where."""

from __future__ import annotations

import pytest

from runnerctl.core.channels import channel_fault
from runnerctl.envs.file import parse
from runnerctl.envs.file_pip import check_files, check_pip
from runnerctl.envs.model import Line
from runnerctl.errors import DataError

GOOD = """\
# what the project needs
name: demo
channels:
  - conda-forge
  - nodefaults
  - https://conda.example.org/team/
dependencies:
  - python=3.12
  - numpy >=1.26,<3  # a comment
  - conda-forge::scipy=1.*=*_0
  - pip
  - pytorch[version='>=2.4', build='*cuda*']
  - pip:
      - -r requirements/extra.txt
      - rich>=13
      - torch==2.5.1; python_version < "3.13"
variables:
  ANSWER: 42
  GREETING: hello
prefix: /home/somebody/envs/demo
"""
HEAD = "channels: [conda-forge]\ndependencies:\n"


def test_a_file_is_read_in_its_order() -> None:
    """Channels, specs and pip lines keep their lines; nodefaults goes, numbers stay as written."""
    found = parse(GOOD)
    assert [(each.text, each.line) for each in found.channels] == [
        ("conda-forge", 4),
        ("https://conda.example.org/team/", 6),
    ]
    assert [each.text for each in found.specs][:2] == ["python=3.12", "numpy >=1.26,<3"]
    assert [(each.text, each.line) for each in found.pip][:2] == [
        ("-r requirements/extra.txt", 14),
        ("rich>=13", 15),
    ]
    assert found.variables == {"ANSWER": "42", "GREETING": "hello"}
    assert found.name == "demo"
    assert "prefix" in found.notes[0]


BAD = [
    ("chanels: [a]\ndependencies: [b]\n", 1, "did you mean 'channels'"),
    ("channels: [a]\ndependencies:\n\t- python\n", 3, "tab"),
    ("channels: [a]\nname: x\nname: y\ndependencies: [b]\n", 3, "twice"),
    ("channels: a\ndependencies: [b]\n", 1, "not a list"),
    ("channels: [a]\ndependencies: []\n", 2, "dependencies is empty"),
    ("channels: [a]\ndependencies:\n", 2, "not a list"),
    ("channels: [a]\n", 1, "no dependencies"),
    ("dependencies: [b]\n", 1, "names no channel"),
    ("channels: [nodefaults]\ndependencies: [b]\n", 1, "names no channel"),
    ("channels:\n  - conda-forge\n  - defaults\ndependencies: [b]\n", 3, "licence"),
    ("- a\n- b\n", 1, "not a mapping"),
    ("", 1, "is empty"),
    ("channels: [a\ndependencies: [b]\n", 2, "is not YAML"),
    (f"{HEAD}  - 3.10\n", 3, "is a number to YAML: 3.10"),
    (f"{HEAD}  - python: 3.12\n", 3, "`- python=3.12`"),
    (f"{HEAD}  - sel(win): pywin32\n", 3, "selects by platform"),
    (f"{HEAD}  - pytorch::torch\n", 3, "'pytorch' of a dependency is not listed"),
    (f"{HEAD}  - numpy[channel=evil]\n", 3, "asks by 'channel'"),
    (f'{HEAD}  - "num\\u0001py"\n', 3, "no package has"),
    (f'{HEAD}  - "num\\npy"\n', 3, "no package has"),
    (f"{HEAD}  - numpy; python<3\n", 3, "no package and version"),
    (f"{HEAD}  - -e .\n", 3, "is an option"),
    (f"{HEAD}  - ./mine.conda\n", 3, "a path"),
    (f"{HEAD}  - !!python/object:os.system x\n", 3, "tagged"),
    (f"{HEAD}  - python\n  - pip:\n    - -e .\n", 5, "pip install -e ."),
    (f"{HEAD}  - python\n  - pip: [a]\n  - pip: [b]\n", 5, "second pip section"),
    (f"{HEAD}  - python\nvariables: {{LD_PRELOAD: x.so}}\n", 4, "may not set"),
    (f"{HEAD}  - python\nvariables: {{GITHUB_TOKEN: x}}\n", 4, "may not set"),
    (f"{HEAD}  - python\nvariables: {{A: [1]}}\n", 4, "not a value"),
    (f"{HEAD}  - python\nplatforms: [amiga]\n", 4, "no platform"),
    ("a: &a [1]\n<<: *a\n", 1, "unknown key 'a'"),
    ("a: " + "[" * 40 + "]" * 40, 1, "nested too deep"),
    (f"{HEAD}  - python\x07\n", 3, "control character"),
    (f"{HEAD}  - python\ud800\n", 3, "control character"),
    (f'{HEAD}  - python\nvariables: {{A: "x\\0y"}}\n', 4, "null character"),
    (f'{HEAD}  - python\nname: "a\\nb"\n', 4, "no name"),
    (HEAD + "  - python\n" * 3000, 3, "more than 2000"),
    (HEAD + "  - python\n" * 60_000, 49_995, "too long"),
    (f"{HEAD}  - python{' =' * 9000}\n", 3, "too long"),
    (f"{HEAD}  - python\n  - pip: ['a{' ' * 90_000}!']\n", 4, "too long"),
    ("#" * (1 << 20) + "\n", 1, "larger than"),
]


@pytest.mark.parametrize(("text", "line", "says"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_one_line(text: str, line: int, says: str) -> None:
    """Every refusal says file, line, reason and remedy."""
    with pytest.raises(DataError) as caught:
        parse(text, "ci/environment.yml")
    assert caught.value.where == f"ci/environment.yml:{line}"
    assert says in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://bob:hunter22@conda.example.org/team",
        "https://hunter22@conda.example.org/team",
        "https://conda.example.org/t/hunter22/team",
        "https://conda.example.org/team?token=hunter22",
        "https://${TOKEN_hunter22}@conda.example.org/x",
    ],
)
def test_a_secret_in_a_channel_is_refused_and_not_repeated(text: str) -> None:
    """What the message says can be read by everybody."""
    with pytest.raises(DataError) as caught:
        parse(f"channels:\n  - {text}\ndependencies: [python]\n")
    assert "credential" in str(caught.value)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ("conda-forge", None),
        ("conda-forge/label/rc", None),
        ("file:///srv/channel", None),
        ("http://127.0.0.1:8000/team", None),
        ("https://conda.anaconda.org/conda-forge", None),
        ("main", "licence"),
        ("https://repo.anaconda.com/pkgs/main", "licence"),
        ("https://conda.anaconda.org/anaconda/", "licence"),
        ("./channel", "is a path"),
        ("/srv/channel", "is a path"),
        ("s3://bucket/x", "no channel's URL"),
        ("https://a.example/../b", "no channel's URL"),
        ("a b", "no channel's name"),
    ],
)
def test_channels(channel: str, says: str | None) -> None:
    """Names and addresses; no paths, no licence, nothing that only looks like an address."""
    fault = channel_fault(channel)
    assert fault is None if says is None else fault is not None and says in fault[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("rich>=13,<15", None),
        ("rich[a,b]==1.0 ; python_version<'3'", None),
        ("rich==1 --hash=sha256:" + "0" * 64, None),
        ("rich @ https://files.example/rich-1-py3-none-any.whl", None),
        ("--extra-index-url https://pip.example/simple", None),
        ("--index-url=https://pip.example/simple", None),
        ("-r more.txt", None),
        ("--constraint=more.txt", None),
        ("-e .", "editable"),
        ("-e.", "editable"),
        ("--editable=.", "editable"),
        (".", "is a path"),
        ("./pkg", "is a path"),
        ("dist/x-1.whl", "is a path"),
        ("x @ file:///tmp/x.whl", "is a path"),
        ("git+https://github.com/a/b", "version control"),
        ("b @ git+ssh://git@github.com/a/b", "credential"),
        ("--extra-index-url https://me:pw@pip.example/simple", "credential"),
        ("-r /etc/passwd", "leaves the repository"),
        ("-c ../up.txt", "leaves the repository"),
        ("-r https://x.example/r.txt", "on a server"),
        ("--trusted-host x", "--trusted-host"),
        ("rich >", "no requirement"),
        ("$(id)", "no requirement"),
    ],
)
def test_lines_of_the_pip_section(line: str, says: str | None) -> None:
    """Packages of an index by name; everything else belongs into a step of the job, or nowhere."""
    if says is None:
        check_pip((Line(line, 7),), "environment.yml")
        return
    with pytest.raises(DataError) as caught:
        check_pip((Line(line, 7),), "environment.yml")
    assert says in caught.value.what
    assert caught.value.where == "environment.yml:7"
    assert "me:pw" not in str(caught.value)


def test_files_of_the_pip_section_are_followed_and_checked() -> None:
    """What a requirements file says must be what the pip section may say; it has its own lines."""
    files = {"req/a.txt": "# top\nrich\n-c b.txt\n", "req/b.txt": "rich<14\n", "other.txt": "x"}
    lines = (Line("-r ./req/a.txt", 9),)
    assert check_files(lines, files, "environment.yml") == ("req/a.txt", "req/b.txt")
    with pytest.raises(DataError, match=r"req/a.txt:3: the file 'req/b.txt' is not there"):
        check_files(lines, {"req/a.txt": files["req/a.txt"]}, "environment.yml")
    with pytest.raises(DataError, match=r"req/a.txt:2: .*editable"):
        check_files(lines, {"req/a.txt": "\n-e .\n"}, "environment.yml")
