"""`.dockerignore` by Docker's rules: anchored patterns, folders with all below, the last match decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.dockerignore import DockerIgnore


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        (["*.log"], ["a.log", ".log"], ["sub/a.log", "a.logs"]),
        (["**/*.log"], ["a.log", "sub/a.log", "a/b/c.log"], ["a.txt"]),
        (["/data"], ["data", "data/x/y"], ["sub/data", "data2"]),
        (["data/"], ["data", "data/x"], ["sub/data"]),
        (["./data/../logs"], ["logs", "logs/1"], ["data"]),
        (["*/temp*"], ["a/temp", "a/temp.txt", "a/temporary/x"], ["temp", "a/b/temp"]),
        (["*/*/temp*"], ["a/b/temp1"], ["a/temp1"]),
        (["temp?"], ["tempa", "tempb/x"], ["temp", "temp/", "tempab"]),
        (["a/**"], ["a/b", "a/b/c"], ["b"]),
        (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b/z"], ["b", "xa/b"]),
        (["[a-c]x"], ["ax", "cx"], ["dx", "-x"]),
        (["[^a]x"], ["bx"], ["ax", "/x"]),
        (["a\\*b"], ["a*b"], ["axb"]),
        (["a.b", "c$d", "e+f", "(g)"], ["a.b", "c$d", "e+f", "(g)"], ["axb"]),
        (["*", "!src"], ["a", "b/c"], ["src", "src/x"]),
        (["*", "!src", "src/data"], ["src/data", "src/data/1"], ["src/x"]),
        (["*.md", "!README*.md", "README-secret.md"], ["a.md", "README-secret.md"], ["README.md"]),
        (["*.md", "README-secret.md", "!README*.md"], ["a.md"], ["README-secret.md", "README.md"]),
        (["data", "!data/keep/this.csv"], ["data/keep/other", "data"], ["data/keep/this.csv"]),
        (["# a comment", "", "   ", ".", "/", " spaced "], ["spaced"], ["# a comment", "a"]),
        (["! a"], [], ["a"]),
        (["x", "!  x"], [], ["x"]),
        (["a\nb"], ["a\nb"], ["a", "b"]),
    ],
)
def test_what_is_left_out(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    ignore = DockerIgnore(lines)
    assert [path for path in left_out if not ignore.leaves_out(path)] == []
    assert [path for path in kept if ignore.leaves_out(path)] == []


@pytest.mark.parametrize("line", ["[", "a[b", "a\\", "!", "[z-a]"])
def test_a_pattern_that_means_nothing_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"'|!"):
        DockerIgnore([line])


@pytest.mark.parametrize(
    ("lines", "looked_through", "passed_over"),
    [
        (["data"], [], ["data"]),
        (["*", "!src/app"], ["src", "src/app", "src/app/x"], ["srcx", "data", "src/lib"]),
        (["*", "!**/*.py"], ["src", "a/b"], []),
        (["*", "!src/*/x"], ["src", "src/a"], ["lib"]),
    ],
)
def test_a_folder_is_looked_through_only_where_something_may_be_kept(
    lines: list[str], looked_through: list[str], passed_over: list[str]
) -> None:
    ignore = DockerIgnore(lines)
    assert all(ignore.may_keep_below(folder) for folder in looked_through)
    assert not any(ignore.may_keep_below(folder) for folder in passed_over)


parts = st.text(alphabet="ab*?!.[]-\\^/ ", min_size=1, max_size=8)


@given(st.lists(parts, max_size=4), st.lists(st.text(alphabet="ab.", min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_is_kept_is_always_found(lines: list[str], path: list[str]) -> None:
    """A walk that passes over folders by `may_keep_below` finds every file that `leaves_out` keeps."""
    try:
        ignore = DockerIgnore(lines)
    except ValueError:
        return
    if ignore.leaves_out("/".join(path)):
        return
    for depth in range(1, len(path)):
        folder = "/".join(path[:depth])
        assert not ignore.leaves_out(folder) or ignore.may_keep_below(folder)
