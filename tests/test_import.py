"""Import: pictures of any kind and size become aligned shards; bad ones are skipped with their
reason; a rerun changes nothing.
"""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.exact import edges, palette
from fourm_data_prep.folder_pictures import find_items
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from fourm_data_prep.splits import Place, Shares
from PIL import Image, ImageDraw

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.modalities import ModalitySet
from fourm.raw.array import Array
from fourm.raw.palette import Palette
from fourm.resources import configs_folder

CONFIG = configs_folder() / "modalities" / "quickstart.yaml"


def drawn(size, color):
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).rectangle(
        (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=color
    )
    return picture


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "deep" / "er").mkdir(parents=True)
    for i in range(40):
        drawn((60 + i, 90 - i), (6 * i, 20, 200)).save(root / f"p{i:02d}.png")
        (root / f"p{i:02d}.txt").write_text(f"picture number {i}\n")
    drawn((33, 70), "red").save(root / "deep" / "a b.jpg")
    drawn((33, 70), "red").save(root / "deep" / "er" / "c.webp")
    (root / "list.csv").write_text("file,caption\na b.jpg,a red thing\nc.webp,another\n")
    return root


def values(out, split, name):
    m = ModalitySet.load(CONFIG)[name]
    result = {}
    for path in shard_paths(out, split, name):
        result |= dict(
            read_shard(path, lambda d, e: m.raw.read(d, e), m.raw.extensions, DamageReport())
        )
    return result


def test_a_folder_becomes_aligned_shards_of_every_modality(folder, tmp_path):
    import_pictures(folder, CONFIG, tmp_path / "raw", engine=EngineConfig(workers=1))
    both = {
        n: {**values(tmp_path / "raw", "train", n), **values(tmp_path / "raw", "val", n)}
        for n in ("rgb", "edges", "palette", "caption")
    }
    assert len(both["rgb"]) == 42 and all(list(both[n]) == list(both["rgb"]) for n in both)
    assert (
        both["caption"]["deep-a_b"] == "a red thing"
        and both["caption"]["deep-er-c"] == "another"
        and both["caption"]["p07"] == "picture number 7"
    )
    assert both["rgb"]["p00"].shape == (64, 64, 3) and both["edges"]["p00"].shape == (64, 64, 1)
    # the blue of the rectangle
    assert any(c[2] > 150 and c[0] < 60 for c in both["palette"]["p00"])
    assert all(Shares().of(Place(key)) == "val" for key in values(tmp_path / "raw", "val", "rgb"))


def test_unreadable_pictures_are_skipped_and_listed_with_their_reason(folder, tmp_path):
    whole = (folder / "p01.png").read_bytes()
    (folder / "p01.png").write_bytes(whole[:100])
    (folder / "p02.png").write_bytes(b"<html>not found</html>")
    (folder / "p03.png").write_bytes(b"")
    import_pictures(
        folder, CONFIG, tmp_path / "raw", max_damage=0.2, engine=EngineConfig(workers=1)
    )
    listed = json.loads((tmp_path / "raw" / "damage-import.json").read_text())
    assert [e["key"] for e in listed["entries"]] == ["p01", "p02", "p03"] and all(
        "no readable picture" in e["reason"] for e in listed["entries"]
    )
    assert listed["seen"] == 42
    names = {**values(tmp_path / "raw", "train", "rgb"), **values(tmp_path / "raw", "val", "rgb")}
    assert len(names) == 39 and "p02" not in names
    with pytest.raises(ValueError, match="3 of 42 samples are damaged"):
        import_pictures(
            folder, CONFIG, tmp_path / "again", max_damage=0.05, engine=EngineConfig(workers=1)
        )


def test_importing_again_gives_the_same_bytes_with_any_number_of_workers(folder, tmp_path):
    import_pictures(folder, CONFIG, tmp_path / "one", engine=EngineConfig(workers=1))
    import_pictures(folder, CONFIG, tmp_path / "two", engine=EngineConfig(workers=2))
    one, two = (
        {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.tar")}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert one and one == two


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n", "column of file names"),
        ('file,caption\na.png,"one\nb.png,two\n', "list.csv, near line 3: unexpected end"),
        ('file,caption\na.png,"one" more\n', "list.csv, near line 2: ',' expected after"),
    ],
)
def test_a_csv_without_the_columns_it_needs_is_named(folder, text, message):
    (folder / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_items(folder)


def test_an_empty_folder_and_a_modality_without_labeller_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in"):
        find_items(tmp_path / "empty")
    with pytest.raises(
        ValueError, match=r"depth \(depth\) cannot be made from a picture: name its labeller"
    ):
        import_pictures(tmp_path, configs_folder() / "modalities" / "demo.yaml", tmp_path / "out")
    with pytest.raises(ValueError, match="labeller 'cany' is not one of"):
        open_labeller("cany")


def test_edges_are_where_brightness_changes_and_palettes_name_the_main_colours():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = (250, 240, 10)
    found = edges(Samples([picture]), Array(size=32))[0][..., 0]
    assert found[:, 15:17].mean() > 0.5 and found[:, :12].max() < 0.01
    colors = palette(Samples([picture]), Palette())[0]
    assert {tuple(c) for c in colors[:2]} == {(0, 0, 0), (250, 240, 10)}


def test_tables_of_all_kinds_name_pictures_captions_and_groups(tmp_path):
    """CSV, TSV, JSON lines and Parquet, inside the folder or as the source itself."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), "red").save(tmp_path / name)
    rows = [
        {"file": "a.png", "caption": "one", "subject": "s"},
        {"file": "b.png", "caption": "two, with a comma", "subject": "t"},
    ]
    texts = {
        "t.csv": 'file,caption,subject\na.png,one,s\nb.png,"two, with a comma",t\n',
        "t.tsv": "file\tcaption\tsubject\na.png\tone\ts\nb.png\ttwo, with a comma\tt\n",
        "t.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in texts.items():
        table = tmp_path / name
        table.write_text(text)
        for source in (tmp_path, table):
            assert [(i.key, i.caption, i.group) for i in find_items(source).items] == [
                ("a", "one", "s"),
                ("b", "two, with a comma", "t"),
            ]
        table.unlink()
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(ValueError, match="is no folder and no table"):
        find_items(tmp_path / "t.txt")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert [i.caption for i in find_items(tmp_path / "t.parquet").items] == [
        "one",
        "two, with a comma",
    ]


# ---- found by people who imported their own ------------------------------------------------------


def picture_bytes(color="red"):
    buffer = io.BytesIO()
    drawn((40, 30), color).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def imported(source, out, **options):
    """Captions of what an import made, by key."""
    import_pictures(source, CONFIG, out, engine=EngineConfig(workers=1), **options)
    kept = {**values(out, "train", "caption"), **values(out, "val", "caption")}
    assert sorted(kept) == sorted([*values(out, "train", "rgb"), *values(out, "val", "rgb")])
    return kept


def test_tars_whose_members_begin_with_a_dot_and_names_with_several_dots_are_read(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    data = picture_bytes()
    members = {f"./{i:03d}.png": data for i in range(12)}
    members |= {f"./{i:03d}.txt": b"number %d" % i for i in range(12)}
    # another modality of 000 is left alone; where there is no such picture dots are the name's
    members |= {"000.seg.png": data, "a.b.v2.png": data, "a.b.v2.txt": b"dots", "sub/z.png": data}
    tar_of(folder / "0.tar", members)
    kept = imported(folder, tmp_path / "raw")
    assert kept["007"] == "number 7" and kept["a_b_v2"] == "dots" and "sub-z" in kept
    assert len(kept) == 14


def test_members_that_leave_their_folder_are_refused_one_by_one(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    members = {f"{i:03d}.png": picture_bytes() for i in range(12)}
    tar_of(folder / "0.tar", members | {"../x.png": b"1", "/etc/y.png": b"2"})
    kept = imported(folder, tmp_path / "raw", max_damage=0.2)
    listed = json.loads((tmp_path / "raw" / "damage-import.json").read_text())["entries"]
    assert len(kept) == 12 and [e["key"] for e in listed] == ["../x.png", "/etc/y.png"]


def test_a_tsv_keeps_its_rows_whatever_quotation_marks_captions_begin_with(tmp_path):
    texts = ['"an open quotation', "plain", '"a whole one"', 'an "inner" one', '"" two', "last"]
    for i in range(len(texts)):
        drawn((30, 30), "blue").save(tmp_path / f"{i}.png")
    lines = [f"{i}.png\t{text}" for i, text in enumerate(texts)]
    # with a byte order mark, as spreadsheets write it
    (tmp_path / "t.tsv").write_text("\n".join(["file\tcaption", *lines]), encoding="utf-8-sig")
    read = [item.caption for item in find_items(tmp_path).items]
    assert read == [texts[0], "plain", "a whole one", *texts[3:]]


def test_files_whose_names_differ_by_a_dot_a_space_or_a_suffix_have_keys_of_their_own(tmp_path):
    for name in ("p q.png", "p.q.png", "p_q.png", "p_q.jpg", "p-q.png"):
        drawn((30, 30), "blue").save(tmp_path / name)
    keys = [item.key for item in find_items(tmp_path).items]
    assert len(set(keys)) == 5 and keys == [item.key for item in find_items(tmp_path).items]


def test_one_bad_file_or_line_costs_itself_alone(folder, tmp_path):
    """A dangling link, a missing file, an empty cell, a null line, a name that is no UTF-8, a .txt
    that is no text, captions in lists.
    """
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as stream:
        stream.write(picture_bytes())
    (folder / "p00.txt").write_bytes(bytes(range(256)))
    lines = ["null", "{}", '{"file": "", "caption": "x"}', '{"file": "c.webp", "caption": ["x"]}']
    (folder / "more.jsonl").write_text("\n".join(lines))
    kept = imported(folder, tmp_path / "raw", max_damage=0.2)
    assert len(kept) == 43 and kept["p00"] == "" and kept["deep-er-c"] == "x"
    assert any(key.startswith("caf") for key in kept)
    listed = json.loads((tmp_path / "raw" / "damage-import.json").read_text())["entries"]
    assert sorted(e["key"] for e in listed) == ["gone", "line 1", "line 2", "line 3"]


def test_a_table_without_captions_and_one_that_names_a_missing_file(tmp_path):
    for i in range(30):
        drawn((30, 30), "blue").save(tmp_path / f"{i:02d}.png")
    names = "\n".join(f"{i:02d}.png" for i in range(31))
    (tmp_path / "t.csv").write_text(f"file\n{names}\n")
    kept = imported(tmp_path / "t.csv", tmp_path / "raw")
    assert len(kept) == 30 and set(kept.values()) == {""}
    listed = json.loads((tmp_path / "raw" / "damage-import.json").read_text())["entries"]
    assert [e["key"] for e in listed] == ["30"] and "No such file" in listed[0]["reason"]


def test_done_json_counts_what_was_written_also_of_manifests_that_do_not_tell(folder, tmp_path):
    (folder / "p01.png").write_bytes(b"no picture")
    out, one = tmp_path / "raw", EngineConfig(workers=1)
    import_pictures(folder, CONFIG, out, engine=one)
    done = json.loads((out / "done.json").read_text())
    held = {s: len(values(out, s, "rgb")) for s in ("train", "val")}
    assert {s: done[s] for s in held} == held and sum(held.values()) == 41
    for path in out.glob("manifests/import/*.json"):  # as releases up to 0.7 wrote them
        manifest = json.loads(path.read_text())
        del manifest["counts"]
        path.write_text(json.dumps(manifest))
    import_pictures(folder, CONFIG, out, engine=one)
    assert json.loads((out / "done.json").read_text()) == done
