"""The routes over real versions: what is asked for is answered by it, and whatever is wrong is a sentence."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.testclient import TestClient

from isnet.inpaint import inpaint
from jobs.evaluation.models import open_model
from jobs.serving.app import AppSettings, _fills, build_app
from jobs.serving.bodies import FormBody
from jobs.serving.invocations import MAX_ROWS
from jobs.serving.local_engine import LocalEngine
from jobs.serving.records import trace_queue
from jobs.serving.startup import open_service, plan_serving
from trainplane.cluster.context import resolve
from trainplane.serving.admission import QueueLimits
from trainplane.serving.engine import Output, ServedVersion
from trainplane.serving.service import ServingOptions, ServingResponse, VersionAnswer

TOKEN = "a-token-of-these-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SIDE = 48


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def photo(height=SIDE, width=SIDE):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 3 % 256, columns * 5 % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)


def mask(height=SIDE, width=SIDE):
    hole = np.zeros((height, width), np.uint8)
    hole[16:28, 12:30] = 255
    return hole


@pytest.fixture(scope="module")
def client(registered_once, tmp_path_factory, empty_tracking_db):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISNET_HOME", str(registered_once.folder / "home"))
        patch.delenv("ISNET_CONTEXT", raising=False)
        context = resolve()
        options = ServingOptions("photo", "production", "2", limits=QueueLimits(1, 8, 8), keep="pictures")
        plan = plan_serving(context, options)
        engine = LocalEngine(context, "photo", workers=1, max_pixels=1_000_000)
        settings = AppSettings(TOKEN, max_pixels=1_000_000, max_bytes=1 << 20)
        app = build_app(lambda: open_service(context, engine, plan, trace_queue(context, "photo")), settings)
        with TestClient(app, raise_server_exceptions=False) as client:
            deadline = 200
            while len(client.get("/v1/versions", headers=BEARER).json()["versions"]) < 2 and deadline:
                deadline -= 1
            yield client


@pytest.fixture
def model(served_home):
    return open_model("models:/photo/1", resolve())


def fill(client, files=None, headers=BEARER, **fields):
    sent = {"photo": ("p", encoded(photo())), "mask": ("m", encoded(mask()))} if files is None else files
    return client.post("/v1/fill", headers=headers, files=sent, data=fields)


def sentence(response):
    answer = response.json()
    assert answer.keys() == {"error", "remedy"}
    assert answer["error"]
    return f"{answer['error']}; {answer['remedy']}"


def test_a_version_that_is_named_answers_and_says_so(client, model):
    response = fill(client, versions="1")
    (answer,) = response.json()["fills"]
    assert (response.headers["x-isnet-version"], answer["version"]) == ("1", "1")
    assert response.headers["x-isnet-digest"] == answer["digest"]
    file = client.get(answer["file"], headers=BEARER)
    assert file.headers["x-isnet-version"] == "1"
    # The same bytes as without a server.
    filled = np.asarray(Image.open(io.BytesIO(file.content)))
    expected = inpaint(photo(), mask(), model=model.filler, refine="auto").image
    assert np.array_equal(filled, expected)
    other = fill(client, versions="2").json()["fills"][0]
    assert client.get(other["file"], headers=BEARER).content != file.content


@pytest.mark.parametrize(
    ("kind", "array", "mode"),
    [
        ("PNG", photo()[..., 0].astype(np.uint16) * 257, "I;16"),
        ("TIFF", photo(), "RGB"),
        ("PNG", np.dstack([photo(), mask()]), "RGBA"),
        ("WEBP", photo(), "RGB"),
    ],
)
def test_the_file_has_the_photos_own_format_and_mode_and_a_preview_for_browsers(client, kind, array, mode):
    sent = encoded(array, kind, **({"lossless": True} if kind == "WEBP" else {}))
    response = fill(client, {"photo": ("p", sent), "mask": ("m", encoded(mask()))})
    (answer,) = response.json()["fills"]
    with Image.open(io.BytesIO(client.get(answer["file"], headers=BEARER).content)) as filled:
        assert (filled.format, filled.mode) == (kind, mode)
        known = mask() == 0
        assert np.array_equal(np.asarray(filled)[known], array[known])
    with Image.open(io.BytesIO(client.get(answer["preview"], headers=BEARER).content)) as preview:
        assert (preview.format, preview.size) == ("PNG", (SIDE, SIDE))
        assert preview.mode in ("RGB", "RGBA")


def test_a_blind_fill_names_no_version_until_the_vote_and_takes_one(client):
    response = fill(client, versions=["1", "2"], blind="true", keep="pictures")
    body = response.json()
    assert "x-isnet-version" not in response.headers
    assert [(f["label"], f["version"], f["digest"], f["milliseconds"]) for f in body["fills"]] == [
        ("A", None, None, None),
        ("B", None, None, None),
    ]
    files = {f["label"]: client.get(f["file"], headers=BEARER) for f in body["fills"]}
    assert all("x-isnet-version" not in file.headers for file in files.values())
    assert client.post("/v1/golden", headers=BEARER, json={"trace": body["trace"]}).json() == {"recorded": True}
    vote = {"trace": body["trace"], "choice": "A", "comment": "fewer halos"}
    revealed = client.post("/v1/verdict", headers=BEARER, json=vote).json()
    assert sorted(answer["version"] for answer in revealed["reveal"].values()) == ["1", "2"]
    for label, answer in revealed["reveal"].items():
        again = fill(client, versions=answer["version"]).json()["fills"][0]
        assert client.get(again["file"], headers=BEARER).content == files[label].content
    second = client.post("/v1/verdict", headers=BEARER, json=vote)
    assert (second.status_code, "has a vote already" in sentence(second)) == (409, True)


def test_a_program_gets_the_file_itself(client):
    response = fill(client, headers={**BEARER, "Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-isnet-trace"].startswith("tr-")
    assert Image.open(io.BytesIO(response.content)).size == (SIDE, SIDE)


def test_mlflows_own_route_answers_as_mlflow_does(client):
    row = {"image": base64.b64encode(encoded(photo())).decode(), "mask": base64.b64encode(encoded(mask())).decode()}
    response = client.post("/invocations", headers=BEARER, json={"dataframe_records": [row]})
    (answer,) = response.json()["predictions"]
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).size == (SIDE, SIDE)
    refused = client.post("/invocations", headers=BEARER, json={"dataframe_records": [{**row, "mask": "?"}]})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_a_body_of_mlflows_route_is_bounded_and_arrives_whole(client):
    picture = np.random.default_rng(3).integers(0, 256, (440, 440, 3), np.uint8)
    row = {
        "image": base64.b64encode(encoded(picture)).decode(),
        "mask": base64.b64encode(encoded(mask(440, 440))).decode(),
    }
    sent = json.dumps({"dataframe_records": [row]}).encode()
    headers = {**BEARER, "Content-Type": "application/json"}
    answer = client.post("/invocations", headers=headers, content=sent[: len(sent) // 2])
    assert answer.status_code == 400
    # Sent in pieces, so that no length is told beforehand.
    pieces = (sent for _ in range(2))
    assert len(sent) < 1 << 20
    refused = client.post("/invocations", headers=headers, content=pieces)
    assert (refused.status_code, "more than 1 MiB" in sentence(refused)) == (413, True)
    (filled,) = client.post("/invocations", headers=headers, content=sent).json()["predictions"]
    assert Image.open(io.BytesIO(base64.b64decode(filled["image"]))).size == (440, 440)


def test_a_request_of_mlflows_route_has_few_rows(client):
    row = {"image": base64.b64encode(encoded(photo())).decode(), "mask": base64.b64encode(encoded(mask())).decode()}
    row = {name: f"data:image/png;base64,{cell}" for name, cell in row.items()}
    most = client.post("/invocations", headers=BEARER, json={"dataframe_records": [row] * MAX_ROWS})
    assert len(most.json()["predictions"]) == MAX_ROWS
    columns = {"columns": list(row), "data": [list(row.values())] * 200}
    table = io.BytesIO()
    pd.DataFrame([row] * (MAX_ROWS + 1)).to_parquet(table)
    for kind, body in (
        ("application/json", json.dumps({"dataframe_split": columns}).encode()),
        ("application/json", json.dumps({"inputs": {"image": ["x"] * 1000, "mask": ["x"] * 1000}}).encode()),
        ("text/csv", b"image,mask\n" + b"x,y\n" * 1000),
        ("application/vnd.apache.parquet", table.getvalue()),
    ):
        refused = client.post("/invocations", headers={**BEARER, "Content-Type": kind}, content=body)
        assert (refused.status_code, "more than 16 rows" in sentence(refused)) == (413, True), kind


def bomb():
    # A header of 200 megapixels over a few bytes.
    data = bytearray(encoded(np.zeros((1, 1), np.uint8)))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


GOOD = {"photo": ("p", encoded(photo())), "mask": ("m", encoded(mask()))}


@pytest.mark.parametrize(
    ("files", "fields", "status", "words"),
    [
        ({"mask": GOOD["mask"]}, {}, 400, "no file photo; send photo and mask"),
        ({**GOOD, "mask": ("m", encoded(mask(40, 40)))}, {}, 400, "mask is 40x40 and picture 48x48"),
        ({**GOOD, "mask": ("m", encoded(np.zeros((SIDE, SIDE), np.uint8)))}, {}, 400, "no hole; paint white"),
        ({**GOOD, "mask": ("m", encoded(np.full((SIDE, SIDE), 255, np.uint8)))}, {}, 400, "nothing but hole; paint"),
        ({**GOOD, "photo": ("p", b"\x7fELF\x02\x01\x01" + bytes(200))}, {}, 400, "not a picture"),
        ({**GOOD, "mask": ("m", b"#!/bin/sh\nreboot\n")}, {}, 400, "the mask is no picture to read: not a picture"),
        ({**GOOD, "photo": ("p", b"")}, {}, 400, "empty: the file has no bytes"),
        ({**GOOD, "photo": ("p", encoded(photo(), "JPEG")[:500])}, {}, 400, "ends too early"),
        ({**GOOD, "photo": ("p", bomb())}, {}, 400, "200000000 pixels; need at most"),
        ({**GOOD, "photo": ("p", bytes(2 << 20))}, {}, 413, "more than 1 MiB; send smaller files"),
        (GOOD, {"versions": "7"}, 404, "version 7 is not served here (served: 1, 2); name one"),
        (GOOD, {"versions": ["1", "2", "1"]}, 400, "at most two different"),
        (GOOD, {"grow": "wide"}, 400, "grow is 'wide'; need a whole number"),
        (GOOD, {"feather": "99999"}, 400, "feather is 99999; need a whole number of pixels from 0 to 1024"),
        (GOOD, {"refine": "more"}, 400, "refine is 'more'; need one of auto, off"),
        (GOOD, {"blind": "perhaps"}, 400, "blind is 'perhaps'; need true or false"),
        (GOOD, {"keep": "all"}, 400, "keep is 'all'; need one of none, facts, pictures"),
        (GOOD, {"colour": "red"}, 400, "the field 'colour' is unknown"),
    ],
)
def test_what_is_wrong_with_a_fill_is_said_in_a_sentence(client, files, fields, status, words):
    response = fill(client, files, **fields)
    assert response.status_code == status
    assert words in sentence(response)
    assert client.get("/healthz").json()["status"] == "ready"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/nothing", None, 404, "there is nothing at /nothing"),
        ("DELETE", "/v1/versions", None, 405, "takes no DELETE"),
        ("GET", "/page/../app.py", None, 404, ""),
        ("GET", "/page/%2e%2e%2fapp.py", None, 404, ""),
        ("GET", "/samples/99/photo", None, 404, "there is no sample 99"),
        ("GET", "/v1/fills/tr-0/A", None, 404, "no fill that this server knows; fill the hole again"),
        ("POST", "/v1/verdict", {"trace": "tr-0", "choice": "A"}, 404, "no fill that this server knows"),
        ("POST", "/v1/verdict", {"trace": "tr-0", "choice": "C"}, 400, "choice"),
        ("POST", "/v1/verdict", {"trace": "tr-0"}, 400, "give one of the two"),
        ("POST", "/v1/fill", {"photo": "?"}, 400, "the body is application/json; need multipart/form-data"),
    ],
)
def test_what_is_wrong_with_another_request_is_said_too(client, method, path, body, status, words):
    response = client.request(method, path, headers=BEARER, json=body)
    assert response.status_code == status
    assert words in sentence(response)


def test_pictures_that_were_not_kept_make_no_golden_set(client):
    trace = fill(client, keep="facts").json()["trace"]
    refused = client.post("/v1/golden", headers=BEARER, json={"trace": trace})
    assert (refused.status_code, "were not kept" in sentence(refused)) == (400, True)
    rated = client.post("/v1/verdict", headers=BEARER, json={"trace": trace, "rating": "bad"})
    assert list(rated.json()["reveal"]) == ["A"]


def test_nobody_gets_in_without_the_token(client):
    client.cookies.clear()
    for path in ("/", "/v1/versions", "/metrics", "/openapi.json", "/docs", "/page/index.html", "/?token=guess"):
        response = client.get(path, follow_redirects=False)
        assert (response.status_code, "token" in sentence(response)) == (401, True), path
    assert client.get("/v1/versions", headers={"Authorization": "Bearer guess"}).status_code == 401
    assert client.get("/healthz").status_code == 200


def test_the_address_gives_a_browser_a_cookie_and_another_site_cannot_use_it(client):
    client.cookies.clear()
    opened = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert opened.status_code == 303
    cookies = opened.headers.get_list("set-cookie")
    assert all("HttpOnly" in cookie and "SameSite=strict" in cookie for cookie in cookies)
    # The cookie does not tell the token.
    assert not any(TOKEN in cookie for cookie in cookies)
    assert client.get("/v1/versions").status_code == 200
    refused = client.post("/v1/verdict", json={"trace": "tr-0", "rating": "bad"})
    assert (refused.status_code, "another site" in sentence(refused)) == (403, True)
    own = client.post("/v1/verdict", json={"trace": "tr-0", "rating": "bad"}, headers={"X-Requested-With": "isnet"})
    assert own.status_code == 404
    client.cookies.clear()


def test_every_answer_forbids_other_hosts_and_frames(client):
    for path in ("/", "/v1/versions", "/nothing", "/docs"):
        policy = client.get(path, headers=BEARER).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy


@pytest.mark.parametrize("blind", [True, False])
def test_notes_do_not_tell_which_answer_is_which_while_it_is_blind(blind):
    answers = tuple(
        VersionAnswer(
            label,
            ServedVersion(label, "d", {}, None, ()),
            Output(b"", "image/png", (f"trained on {size} pixels", "one frame was read"), {"width": 1, "height": 1}),
            1.0,
        )
        for label, size in (("A", 256), ("B", 128))
    )
    first, second = (fill["notes"] for fill in _fills(ServingResponse("tr-0", answers, blind, "facts"))["fills"])
    assert (first == second) is blind
    assert set(first + second) == {"trained on 256 pixels", "trained on 128 pixels", "one frame was read"}


def test_a_long_json_body_is_refused_before_it_is_parsed(client):
    vote = {"trace": "tr-0", "choice": "A", "comment": "x" * (2 << 20)}
    for route in ("/v1/verdict", "/v1/golden"):
        refused = client.post(route, headers=BEARER, json=vote)
        assert (refused.status_code, "more than 1 MiB" in sentence(refused)) == (413, True)


def test_a_fault_is_told_to_who_has_the_token(client, monkeypatch):
    monkeypatch.setattr(client.app.state.service, "fault", "restore the records below s3://bucket/audit")
    client.cookies.clear()
    assert "s3://" not in client.get("/healthz").text
    assert "s3://" in client.get("/healthz", headers=BEARER).text


@pytest.mark.parametrize("host", ["x/healthz?", "x/healthz#", "evil.example/healthz"])
def test_a_forged_host_opens_no_route(client, host):
    client.cookies.clear()
    assert client.get("/metrics", headers={"Host": host}).status_code == 401


def test_only_types_of_pictures_are_recorded():
    kinds = {
        "image/png": "image/png",
        "image/heic": "image/heic",
        "image/svg+xml": "application/octet-stream",
        "text/html": "application/octet-stream",
        "image/png; x=1": "application/octet-stream",
    }
    for sent, recorded in kinds.items():
        file = UploadFile(io.BytesIO(), headers=Headers({"content-type": sent}))
        assert FormBody({"photo": file}, {}).media_type("photo") == recorded


def test_a_setting_does_not_show_the_token():
    assert TOKEN not in repr(AppSettings(TOKEN))


def test_metrics_count_answers_by_version(client):
    fill(client, versions="2")
    lines = client.get("/metrics", headers=BEARER).text.splitlines()
    assert any('outcome="ok"' in line and 'version="2"' in line for line in lines)
    assert any(line.startswith('trainplane_serving_share{model="photo",version="1"} 1.0') for line in lines)


def test_the_routes_are_described(client):
    paths = client.get("/openapi.json", headers=BEARER).json()["paths"]
    assert {"/v1/fill", "/v1/verdict", "/v1/golden", "/v1/versions", "/invocations", "/metrics", "/healthz"} <= set(
        paths
    )
    fields = paths["/v1/fill"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"photo", "mask", "versions", "blind", "keep"} <= set(fields)
    assert "/v1/fill" in client.get("/docs", headers=BEARER).text


def test_a_version_that_answers_nan_is_never_opened(served_home):
    from jobs.serving.local_engine import open_version

    with pytest.raises(ValueError, match="NaN or infinity"):
        open_version(resolve(), "photo", "3")


def test_traces_wait_on_disk(client, registered_once):
    root = registered_once.folder / "home" / "serving" / "photo"
    # Of this account alone: pictures may be among them.
    assert root.stat().st_mode & 0o077 == 0
    folders = list(root.glob("*/records*"))
    assert folders
    lines = b"".join(file.read_bytes() for file in folders).splitlines()
    assert any(json.loads(line).get("k") == "verdict" for line in lines if line.startswith(b"{"))
