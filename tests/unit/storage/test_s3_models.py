import gzip
import json
from pathlib import Path

import botocore
from botocore.loaders import Loader

from agent.storage.s3_models import LeanFiles, LeanLoader


def test_the_lean_model_says_the_same_about_requests_as_botocores() -> None:
    def names(model: dict[str, object]) -> dict[str, list[str]]:
        shapes = model["shapes"]
        assert isinstance(shapes, dict)
        return {name: list(shape.get("members", ())) for name, shape in shapes.items()}

    lean, full = (loader.load_service_model("s3", "service-2") for loader in (LeanLoader(), Loader()))
    assert lean["operations"].keys() == full["operations"].keys()
    assert names(lean) == names(full)
    operation = {k: v for k, v in full["operations"]["PutObject"].items() if k != "documentation"}
    assert {k: v for k, v in lean["operations"]["PutObject"].items() if k != "documentation"} == operation


def test_endpoints_keep_what_the_store_and_its_credentials_need() -> None:
    lean, full = (loader.load_data("endpoints") for loader in (LeanLoader(), Loader()))
    assert len(lean["partitions"]) == len(full["partitions"])
    for ours, theirs in zip(lean["partitions"], full["partitions"], strict=True):
        assert set(ours["services"]) <= {"s3", "sts", "sso", "oidc", "portal.sso"}
        for name, service in ours["services"].items():
            assert service == theirs["services"][name]
        assert {k: v for k, v in ours.items() if k != "services"} == {
            k: v for k, v in theirs.items() if k != "services"
        }


def test_a_service_is_known_by_its_folder_and_search_paths_count(tmp_path: Path) -> None:
    (tmp_path / "mine" / "2026-01-01").mkdir(parents=True)
    with gzip.open(tmp_path / "mine" / "2026-01-01" / "service-2.json.gz", "wt") as file:
        json.dump({"documentation": "long", "shapes": {"documentation": {"type": "string"}}}, file)
    loader = LeanLoader([str(tmp_path)])
    assert {"s3", "sts", "mine"} <= set(loader.list_available_services("service-2"))
    model = loader.load_service_model("mine", "service-2")
    assert model == {"documentation": "", "shapes": {"documentation": {"type": "string"}}}


def test_missing_files_are_none() -> None:
    folder = Path(botocore.__file__).parent / "data"
    assert LeanFiles().load_file(str(folder / "no-such")) is None
    assert not LeanFiles().exists(str(folder / "no-such"))
    assert LeanFiles().exists(str(folder / "endpoints"))
