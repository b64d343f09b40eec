import gzip
import json
import re
from pathlib import Path

import botocore
from botocore import xform_name
from botocore.loaders import Loader

import agent.storage
from agent.storage.s3_models import LeanFiles, LeanLoader


def undocumented(node: object) -> object:
    if isinstance(node, dict):
        return {
            key: undocumented(value)
            for key, value in node.items()
            if not (key == "documentation" and isinstance(value, str))
        }
    return [undocumented(each) for each in node] if isinstance(node, list) else node


def test_the_lean_model_says_the_same_about_requests_as_botocores() -> None:
    lean, full = (loader.load_service_model("s3", "service-2") for loader in (LeanLoader(), Loader()))
    assert len(lean["shapes"]) < len(full["shapes"]) / 3
    for part in ("operations", "shapes"):
        for name, theirs in full[part].items():
            if name in lean[part]:
                assert undocumented(lean[part][name]) == undocumented(theirs)
    rest = lean.keys() - {"operations", "shapes"}
    assert undocumented({name: lean[name] for name in rest}) == undocumented({name: full[name] for name in rest})
    assert lean.keys() == full.keys()


def test_every_operation_of_the_store_is_in_the_lean_model() -> None:
    folder = Path(agent.storage.__file__).parent
    called = {
        name
        for module in folder.glob("s3*.py")
        for name in re.findall(r"\b_?client\.([a-z0-9_]+)\(", module.read_text())
    }
    assert "put_object" in called
    operations = LeanLoader().load_service_model("s3", "service-2")["operations"]
    assert called <= {xform_name(name) for name in operations}


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
