"""What a finished run says of itself."""

from types import SimpleNamespace

from dino_detr.training import description


def test_a_fault_in_the_report_does_not_fail_the_run(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(description.logger, "warning", said.append)
    options = SimpleNamespace(
        eval_split="val", overfit_images=None, output_dir=str(tmp_path), run_folder=tmp_path, sources=["digits"]
    )
    assert description.write_run_report(options, evaluation=None) is None
    assert "The report could not be written" in said[0]
