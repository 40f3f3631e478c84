//! The exported file: the same figures from tch, from mdr and from onnxruntime; complete metadata; a wrong file fails the
//! parity check.

mod common;

use mdr_train::{export, parity};
use std::io::Write;
use std::process::Command;
use tch::{Device, Tensor};

#[test]
fn mdr_computes_what_tch_computes() {
    for changes in [
        &["net.depth=1", "net.residual=false"][..],
        &["net.depth=2", "net.kernel=5"],
        &["net.depth=3", "net.features=6", "train.ema=0.9"],
        &["net.depth=3", "net.features=4", "net.widest=8"],
    ] {
        let config = common::smoke(&[changes, &["patches.size=32"]].concat());
        let method = config.method.build(&config, Device::Cpu);
        let report = parity::compare(method.as_ref(), 0, &export::encode(&config, method.as_ref(), 0, None)).unwrap();
        assert!(report.passed, "{changes:?}: {report:?}");
        assert_eq!(report.patches.len(), 4);
    }
}

#[test]
fn other_weights_fail_the_parity_check() {
    let config = common::smoke(&[]);
    let other = common::smoke(&["seed=8"]);
    let bytes = export::encode(&config, config.method.build(&config, Device::Cpu).as_ref(), 0, None);
    let report = parity::compare(other.method.build(&other, Device::Cpu).as_ref(), 0, &bytes).unwrap();
    assert!(!report.passed && report.worst > 1e-3, "{report:?}");
}

#[test]
fn metadata_is_complete() {
    let config = common::smoke(&["export.license=CC0-1.0", "data.percentile_low=1.5"]);
    let method = config.method.build(&config, Device::Cpu);
    let bytes = export::encode(&config, method.as_ref(), 0, Some(r#"{"images":4}"#));
    let model = mdr::Model::from_bytes("exported", &bytes).unwrap();
    let facts = model.facts();
    assert_eq!(facts.task, Some(mdr::Task::Denoise));
    assert_eq!((facts.axes.as_str(), facts.channels, facts.scale, facts.tile_multiple), ("YX", 1, 1, 4));
    assert_eq!(facts.normalization, mdr::Normalization::Percentile { low: 1.5, high: 99.8 });
    assert_eq!(
        (facts.name.as_str(), facts.license.as_str(), facts.method.as_str()),
        ("care-denoise", "CC0-1.0", "CARE")
    );
    assert_eq!(facts.metrics, Some(serde_json::json!({"images": 4})));
    assert!(facts.halo.is_some(), "no layer sees the whole image");
    for (key, text) in [("description", &facts.description), ("authors", &facts.authors), ("commit", &facts.commit)] {
        assert!(!text.is_empty(), "{key}");
    }
}

#[test]
fn an_axial_model_says_which_steps_it_was_trained_with() {
    let step = |more: &[&str]| {
        let config = common::smoke(&[&["task=axial", "simulate.axial.step=[1.5, 4.0]"], more].concat());
        let bytes = export::encode(&config, config.method.build(&config, Device::Cpu).as_ref(), 0, None);
        mdr::Model::from_bytes("exported", &bytes).unwrap().facts().axial_step
    };
    assert_eq!(step(&[]), Some([1.5, 4.0]));
    // Pairs do not say it.
    assert_eq!(step(&["simulate.fraction=0.0"]), None);
}

/// Needs onnx and onnxruntime in the Python that MDR_PYTHON names (or python3).
#[test]
fn onnxruntime_agrees() {
    let python = std::env::var("MDR_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import onnx, onnxruntime, numpy"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("MDR_REQUIRE_TOOLS").is_none(), "{python} cannot import onnx and onnxruntime");
        // Not eprintln!, which the test harness would hide.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED onnxruntime_agrees: {python} cannot import onnx and onnxruntime; set MDR_PYTHON"
        );
        return;
    }
    // mdr itself does not take the last, which degrades images.
    for changes in
        [&["net.features=16"][..], &["method=cgan"], &["method=separate-gan", "gan.content=pixel", common::PAIRS_ONLY]]
    {
        let config = common::smoke(changes);
        let method = config.method.build(&config, Device::Cpu);
        let bytes = export::encode(&config, method.as_ref(), 0, None);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (channels, y, x) = (method.generator().channels(), 52, 68);
        let input: Vec<f32> = (0..channels * y * x).map(|i| (i as f32 * 0.37).sin() + i as f32 / 4000.0).collect();
        let raw = |samples: &[f32]| samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>();
        std::fs::write(path("model.onnx"), &bytes).unwrap();
        std::fs::write(path("input.bin"), raw(&input)).unwrap();
        let script = format!(
            "import numpy as np, onnx, onnxruntime\n\
             model = onnx.load('model.onnx')\n\
             onnx.checker.check_model(model, full_check=True)\n\
             assert model.ir_version <= 8 and model.opset_import[0].version <= 17\n\
             session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n\
             image = np.fromfile('input.bin', '<f4').reshape(1, {channels}, {y}, {x})\n\
             session.run(None, {{'input': image}})[0].astype('<f4').tofile('output.bin')\n"
        );
        let ran = Command::new(&python).args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

        let output = std::fs::read(path("output.bin")).unwrap();
        let found: Vec<f32> = output.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let found = Tensor::from_slice(&found);
        let sides = [1, channels, y, x].map(|side| side as i64);
        let tch = method.restore(&Tensor::from_slice(&input).reshape(sides), 0).contiguous().reshape([-1]);
        let range = (tch.max() - tch.min()).double_value(&[]);
        let agree = |other: &Tensor, name: &str| {
            let difference = (other - &found).abs().max().double_value(&[]);
            assert!(range > 0.1 && difference <= 1e-4 * range, "{changes:?}, {name}: {difference} of {range}");
        };
        agree(&tch, "tch");
        if channels == 1 {
            let mdr = mdr::Model::from_bytes("exported", &bytes).unwrap().network().run(&input, [1, y, x]).unwrap();
            agree(&Tensor::from_slice(&mdr), "mdr");
        }
    }
}
