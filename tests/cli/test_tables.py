"""What a table gives up where there is little room."""

from rich.console import Console

from holdfast.cli.tables import column, fitting, marked, table


def columns():
    return [
        column("name", ["a-rather-long-name", "b"]),
        column("first", [1, 2], right=True, rank=1),
        column("second", [3, 4], right=True, rank=2),
        column("third", [5, 6], right=True, rank=2),
    ]


def headers(room):
    shown, left_out = fitting(columns(), room)
    return [one.header for one in shown], left_out


def drawn(renderable, width):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_everything_is_shown_where_there_is_room():
    """The widths of all columns and the gaps between them fit exactly."""
    assert headers(18 + 2 + 5 + 2 + 6 + 2 + 5) == (["name", "first", "second", "third"], [])


def test_the_highest_rank_goes_first_and_the_last_of_a_rank_before_the_others():
    """One column short of room takes the last of the least important ones."""
    assert headers(39) == (["name", "first", "second"], ["third"])
    assert headers(30) == (["name", "first"], ["second", "third"])


def test_columns_without_rank_always_stay():
    """Names are shown even if nothing else can be."""
    assert headers(5) == (["name"], ["first", "second", "third"])


def test_elastic_columns_are_shortened_before_names():
    """A digest loses its end so that names keep theirs."""
    rows = [column("file", ["optimizer.safetensors"]), column("digest", ["0123456789" * 7], elastic="ellipsis")]
    lines = drawn(table(rows, 60), 60).splitlines()
    assert lines[1].startswith("optimizer.safetensors  0123456789")
    assert lines[1].rstrip().endswith("…")
    assert max(map(len, lines)) <= 60


def test_long_lines_stay_clear_of_their_mark():
    """Lines that are wrapped are indented behind the mark."""
    lines = drawn(marked("✗", "red", ["name", "a reason that is told in more than one line"]), 24).splitlines()
    assert lines[0].startswith("✗ name")
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) == 3
