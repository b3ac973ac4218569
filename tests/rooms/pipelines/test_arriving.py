"""What arrives: files below a prefix, each once; sheets, pictures and sounds; tables whose columns change by rules."""

import io
import math
import struct
import wave
import zipfile
from pathlib import Path

import pytest

import stratal
from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.execution import rendered
from stratal.sdk.pipelines.ingestion import ColumnsChanged, TooManyBadRows
from stratal.sdk.pipelines.local import LocalLake


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lake, "_chosen", [LocalLake(tmp_path / "lake")])
    return tmp_path


def store(folder: Path, key: str, data: bytes) -> None:
    """As if somebody else had put (or changed) an object."""
    path = folder / "lake" / "objects" / "in" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def rows(name: str) -> list[dict[str, object]]:
    return stratal.table(name).rows()


def test_each_file_is_brought_in_once_and_a_changed_one_takes_its_own_place(folder: Path) -> None:
    store(folder, "trips/a.csv", b"id,km\n1,2.5\n2,3\n")
    store(folder, "trips/b.csv", b"id,km\n3,4\n")
    store(folder, "other/c.csv", b"id,km\n9,9\n")

    def bring() -> tuple[int, int]:
        done = stratal.ingest_objects(stratal.objects_under("s3://in/trips/"), "raw.trips", most_bad=0.5)
        return done.rows, done.bad

    assert bring() == (3, 0)
    assert bring() == (0, 0), "nothing is new"
    assert rows("raw.trips")[0]["source"] == "s3://in/trips/a.csv"
    store(folder, "trips/a.csv", b"id,km\n1,7\nx,1\n4,1\n")
    store(folder, "trips/d.csv", b"id,km\n5,5\n")
    assert bring() == (3, 1)
    assert sorted((row["id"], row["km"]) for row in rows("raw.trips")) == [(1, 7), (3, 4), (4, 1), (5, 5)]
    (bad,) = rows("raw.trips_bad")
    assert (bad["source"], bad["line"], bad["reason"]) == (
        "s3://in/trips/a.csv",
        3,
        "column id: 'x' is no int",
    )
    assert bring() == (0, 0)
    store(folder, "trips/a.csv", b"id,km\n1,8\n")
    assert bring() == (1, 0)
    assert rows("raw.trips_bad") == [], "what was wrong with the file before is not any more"
    with pytest.raises(ValueError, match="is not like s3"):
        stratal.objects_under("in/trips")


def test_a_tables_columns_change_only_as_far_as_is_allowed() -> None:
    def bring(text: str, **how: object) -> int:
        return stratal.ingest(text.encode(), "raw.t", format="csv", **how).rows  # type: ignore[arg-type]

    bring("id,n,day\n1,2,2024-01-01\n")
    assert bring("id,n\n2,\n") == 1, "a column that is left out is empty"
    with pytest.raises(
        ColumnsChanged, match=r"bytes, row 3: the table has no column tip \(it has id, n, day\)"
    ):
        bring("id,n,tip\n3,1,\n4,1,2\n")
    with pytest.raises(
        ColumnsChanged, match=r"bytes, row 3: column n is int in the table, and '2\.5' is non"
    ):
        bring("id,n\n3,1\n4,2.5\n", evolve="add")
    assert len(rows("raw.t")) == 2, "and nothing was written"
    assert bring("id,n,tip\n3,1,0.5\n", evolve="add") == 1
    assert bring("id,n,day\n4,2.5,2024-01-02T10:00:00\n5,3,2024-01-03\n", evolve="widen") == 2
    assert {row["id"]: (row["n"], str(row["day"])) for row in rows("raw.t")} == {
        1: (2.0, "2024-01-01 00:00:00"), 2: (None, "None"), 3: (1.0, "None"),
        4: (2.5, "2024-01-02T10:00:00"), 5: (3.0, "2024-01-03T00:00:00"),
    }  # fmt: skip
    done = stratal.ingest_rows(iter([{"id": 9, "n": "1"}, {"id": 8}]), "raw.other", name="api")
    assert (done.rows, rows("raw.other")) == (2, [{"id": 9, "n": 1}, {"id": 8, "n": None}])
    assert stratal.ingest_rows([], "raw.other").rows == 0
    with pytest.raises(TooManyBadRows, match="'x' is no int"):
        bring("id,n\nx,1\n", columns={"id": "BIGINT"})
    assert bring("id,n\nseven,1\n", evolve="widen") == 1
    assert {row["id"] for row in rows("raw.t")} == {"1", "2", "3", "4", "5", "seven"}


@pytest.mark.fast
def test_a_table_may_have_another_name_in_a_query() -> None:
    class Pinned(LocalLake):
        def at(self, quoted: str, snapshot: str | None) -> str:
            return quoted if snapshot is None else f"{quoted} AT (VERSION => {snapshot})"

    lake.use(Pinned(Path()))
    given = {"after": [stratal.table("a.b", 7)], "least": 1}
    for text, wanted in (
        ("{{ ref('a.b') }} t join {{ ref('a.b') }} AS \"u v\"", '{} t @ join {} AS "u v" @'),
        ("{{ ref('a.b') }} where x > {{ least }} and y", "{} @ where x > 1 and y"),
        ("{{ ref('a.b') }}\nLEFT JOIN {{ref('c.d')}} on_ ON x", '{} @\nLEFT JOIN "c"."d" on_ ON x'),
        ("({{ ref('a.b') }}), {{ ref('a.b') }}", "({} @), {} @"),
    ):
        full = wanted.replace("{}", '"a"."b"').replace("@", "AT (VERSION => 7)")
        assert rendered(text, given) == full


def sheet(cells: list[list[object]]) -> bytes:
    """A workbook of one sheet, as small as Excel's format can be."""

    def cell(value: object) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in cells)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as book:
        book.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" '
            'ContentType="application/xml"/></Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="Trips" sheetId="1" r:id="r1"/></sheets>'
            "</workbook>",
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        book.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
        )
    return made.getvalue()


def test_sheets_of_excel(folder: Path) -> None:
    data = sheet([["id", "km", "day", None], [1, 2.5, "2024-01-01", None], [2, "far", "2024-01-02", None]])
    (folder / "trips.xlsx").write_bytes(data)
    done = stratal.ingest(folder / "trips.xlsx", "raw.trips", columns={"km": "double"}, most_bad=0.5)
    assert (done.rows, done.bad) == (1, 1)
    assert rows("raw.trips") == [{"id": 1, "km": 2.5, "day": "2024-01-01"}]
    assert (rows("raw.trips_bad")[0]["line"], rows("raw.trips_bad")[0]["reason"]) == (
        3,
        "column km: 'far' is no float",
    )
    with pytest.raises(ValueError, match="no sheet 'Nothing'; there are Trips"):
        stratal.ingest(data, "raw.x", format="excel", sheet="Nothing")
    with pytest.raises(ValueError, match="Two columns of the sheet are called 'id'"):
        stratal.ingest(sheet([["id", "id"], [1, 2]]), "raw.x", format="excel")


def test_pictures_become_a_table_about_them(folder: Path) -> None:
    from PIL import Image

    def picture(mode: str, size: tuple[int, int], format: str) -> bytes:
        made = io.BytesIO()
        Image.new(mode, size).save(made, format)
        return made.getvalue()

    store(folder, "p/a.png", picture("RGBA", (4, 3), "PNG"))
    store(folder, "p/b.jpg", picture("L", (5, 2), "JPEG"))
    store(folder, "p/cut.png", picture("RGB", (600, 600), "PNG")[:-40])
    store(folder, "p/no.png", b"no picture")
    found = stratal.objects_under("s3://in/p/")
    done = stratal.ingest_images(found, "raw.pictures")
    assert (done.rows, done.bad) == (2, 2)
    seen = {str(row["source"])[-5:]: row for row in rows("raw.pictures")}
    assert (seen["a.png"]["width"], seen["a.png"]["height"], seen["a.png"]["mode"]) == (4, 3, "RGBA")
    assert (seen["b.jpg"]["format"], seen["b.jpg"]["mode"], len(str(seen["b.jpg"]["sha256"]))) == (
        *("JPEG", "L"),
        64,
    )
    assert {str(row["source"])[10:] for row in rows("raw.pictures_bad")} == {"cut.png", "no.png"}
    assert all(row["reason"] for row in rows("raw.pictures_bad"))
    assert stratal.ingest_images(found, "raw.pictures").rows == 0
    store(folder, "p/no.png", picture("RGB", (1, 1), "PNG"))
    done = stratal.ingest_images(stratal.objects_under("s3://in/p/"), "raw.pictures")
    assert (done.rows, done.bad) == (1, 0)
    assert [str(row["source"])[10:] for row in rows("raw.pictures_bad")] == ["cut.png"]
    with pytest.raises(TooManyBadRows, match="1 of 1 files cannot be decoded"):
        stratal.ingest_images([stratal.object_at("s3://in/p/cut.png")], "raw.others", most_bad=0.1)


def test_sounds_become_a_table_about_them(folder: Path) -> None:
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        tone = [int(9000 * math.sin(i / 9)) for i in range(4000)]
        sound.writeframes(b"".join(struct.pack("<hh", one, one) for one in tone))
    store(folder, "s/tone.wav", made.getvalue())
    store(folder, "s/none.wav", b"RIFF no")
    done = stratal.ingest_audio(stratal.objects_under("s3://in/s/"), "raw.sounds")
    assert (done.rows, done.bad) == (1, 1)
    (row,) = rows("raw.sounds")
    assert (row["seconds"], row["sample_rate"], row["channels"], row["frames"]) == (0.5, 8000, 2, 4000)
    assert (row["format"], row["encoding"]) == ("WAV", "PCM_16")
