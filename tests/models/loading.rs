//! Models as files: what a good one gives, and that each kind of bad one gets a clear line.

use crate::common::*;
use mdr::network::Network;
use mdr::{Error, Model, Normalization, Task};

fn network(bytes: &[u8]) -> Network {
    Network::from_onnx("test", bytes).expect("a good network")
}

fn refusal(bytes: &[u8]) -> String {
    let error = Model::from_bytes("bad.onnx", bytes).expect_err("a bad model");
    assert!(matches!(error, Error::BadModel { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("model bad.onnx: ") && !text.contains('\n'), "{text}");
    text
}

#[test]
fn identity_gives_back_its_input() {
    let image = noise(3, 12 * 17);
    let net = network(&identity());
    assert_eq!((net.spatial_axes(), net.channels()), (2, (1, 1)));
    assert_eq!(net.run(&image, [1, 12, 17]).unwrap(), image);
    let stack = noise(4, 3 * 5 * 7);
    let net = network(&identity_3d());
    assert_eq!(net.spatial_axes(), 3);
    assert_eq!(net.run(&stack, [3, 5, 7]).unwrap(), stack);
}

#[test]
fn mean_of_nine_pixels() {
    let (y, x) = (9, 300);
    let image = noise(5, y * x);
    let net = network(&mean3());
    assert_eq!(net.field().halo, Some([0, 1, 1]));
    let result = net.run(&image, [1, y, x]).unwrap();
    let at = |row: i64, column: i64| {
        let inside = (0..y as i64).contains(&row) && (0..x as i64).contains(&column);
        if inside { image[row as usize * x + column as usize] } else { 0.0 }
    };
    for (i, found) in result.iter().enumerate() {
        let (row, column) = ((i / x) as i64, (i % x) as i64);
        let sum: f32 =
            (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx))).map(|(dy, dx)| at(row + dy, column + dx)).sum();
        assert!((sum / 9.0 - found).abs() < 1e-6, "row {row}, column {column}");
    }
}

#[test]
fn fields_of_known_networks() {
    let field = network(&upsample2()).field().clone();
    assert_eq!((field.halo, field.scale, field.multiple), (Some([0, 0, 0]), [1, 2, 2], [1, 1, 1]));
    let field = network(&mean3_3d()).field().clone();
    assert_eq!((field.halo, field.scale), (Some([1, 1, 1]), [1, 1, 1]));
    let field = network(&unet(2, 4)).field().clone();
    assert_eq!((field.scale, field.multiple), ([1; 3], [1, 4, 4]));
    for (bytes, operator) in [(instance_norm(), "InstanceNormalization"), (global_pool(), "GlobalAveragePool")] {
        let field = network(&bytes).field().clone();
        assert_eq!(field.halo, None);
        let reason = field.reason.expect("a reason");
        assert!(reason.contains(operator), "{reason}");
    }
}

#[test]
fn metadata_becomes_facts() {
    let bytes = with_metadata(
        &unet(1, 2),
        &[
            ("mdr.format", "1"),
            ("mdr.task", "super-resolve"),
            ("mdr.axes", "YX"),
            ("mdr.channels", "1"),
            ("mdr.scale", "1"),
            ("mdr.normalization", r#"{"kind":"percentile","low":1.0,"high":99.0}"#),
            ("mdr.tile_multiple", "6"),
            ("mdr.name", "Beads"),
            ("mdr.metrics", r#"{"psnr":30.5}"#),
        ],
    );
    let model = Model::from_bytes("beads.onnx", &bytes).unwrap();
    let facts = model.facts();
    assert_eq!((facts.name.as_str(), facts.task), ("Beads", Some(Task::SuperResolve)));
    assert_eq!(facts.normalization, Normalization::Percentile { low: 1.0, high: 99.0 });
    assert_eq!((facts.tile_multiple, model.multiple()), (6, [1, 6, 6]));
    assert_eq!(facts.sha256.len(), 64);
    let json: serde_json::Value = serde_json::from_str(&facts.to_json()).unwrap();
    assert_eq!((&json["task"], &json["metrics"]["psnr"]), (&"super-resolve".into(), &30.5.into()));
}

#[test]
fn defaults_of_a_foreign_file() {
    let model = Model::from_bytes("foreign", &upsample2()).unwrap();
    let facts = model.facts();
    assert_eq!((facts.name.as_str(), facts.task, facts.scale, facts.channels), ("foreign", None, 2, 1));
    assert_eq!(facts.normalization, Normalization::Percentile { low: 2.0, high: 99.8 });
}

#[test]
fn contradictions_name_both_values() {
    for (key, value, expected) in [
        ("mdr.format", "2", &["\"2\"", "\"1\""][..]),
        ("mdr.axes", "ZYX", &["ZYX", "\"YX\""]),
        ("mdr.channels", "3", &["3", "takes 1"]),
        ("mdr.scale", "2", &["mdr.scale is 2", "makes 1"]),
        ("mdr.scale", "two", &["two", "whole number"]),
        ("mdr.tile_multiple", "0", &["0", "above 0"]),
        ("mdr.tile_multiple", "99991", &["99991"]),
        ("mdr.task", "derain", &["derain", "denoise"]),
        ("mdr.normalization", "{\"kind\":\"percentile\"", &["mdr.normalization"]),
        ("mdr.normalization", r#"{"kind":"percentile","low":90.0,"high":10.0}"#, &["90", "10"]),
        ("mdr.axial_step", "[6, 2]", &["mdr.axial_step", "[6, 2]", "above 0"]),
        ("mdr.axial_step", "[0, 2]", &["mdr.axial_step", "[0, 2]", "above 0"]),
        ("mdr.axial_step", "4", &["mdr.axial_step", "4", "two numbers"]),
        ("mdr.metrics", "{", &["mdr.metrics"]),
    ] {
        let text = refusal(&with_metadata(&mean3(), &[(key, value)]));
        assert!(expected.iter().all(|e| text.contains(e)), "{key} = {value}: {text}");
    }
}

#[test]
fn bad_files_get_one_clear_line() {
    let good = mean3();
    for (bytes, expected) in [
        (vec![], "empty"),
        (b"hello".to_vec(), "not an ONNX file"),
        (good[..good.len() / 2].to_vec(), "truncated"),
        (two_inputs(), "2 inputs (image, mask)"),
        (two_outputs(), "2 outputs (relu_1, sigmoid_2)"),
        (no_output(), "no output"),
        (wrong_rank(), "2 axes"),
        (unknown_operator(), "Frobnicate \"/net/frobnicate_1\""),
    ] {
        let text = refusal(&bytes);
        assert!(text.contains(expected), "expected {expected:?} in: {text}");
    }
    for end in 0..good.len() {
        // Fields of protobuf may be left out, so not every cut shows; none may do worse than an error.
        let _ = Model::from_bytes("cut", &good[..end]);
    }
}

/// Devices and pipes claim to be empty, and would be read without end or waited for.
#[test]
#[cfg(target_os = "linux")]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let mut refused = vec!["/dev/zero".into()];
    for name in ["zero.onnx", "zero.zip", "zero.yaml"] {
        std::os::unix::fs::symlink("/dev/zero", place(name)).unwrap();
        refused.push(place(name));
    }
    for name in ["pipe.onnx", "pipe.zip"] {
        assert!(std::process::Command::new("mkfifo").arg(place(name)).status().unwrap().success());
        refused.push(place(name));
    }
    // Weights of a package that is fine otherwise.
    let package = "format_version: 0.5.3\ntype: model\ninputs: [{id: i, axes: bcyx}]\n\
                   outputs: [{id: o, axes: bcyx}]\nweights: {onnx: {source: zero.onnx}}\n";
    std::fs::write(place("rdf.yaml"), package).unwrap();
    refused.push(place("rdf.yaml"));
    for path in refused {
        let error = Model::load(&path).expect_err("a device or pipe");
        assert!(matches!(error, Error::BadModel { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.ends_with("is a device or pipe; expected a regular file"), "{}: {text}", path.display());
    }
    // Through a link, a regular file is one.
    std::fs::write(place("real"), mean3()).unwrap();
    std::os::unix::fs::symlink(place("real"), place("link.onnx")).unwrap();
    assert!(Model::load(&place("link.onnx")).is_ok());
    std::fs::write(place("large.yaml"), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(Model::load(&place("large.yaml")).unwrap_err().to_string().contains("1 MiB"));
}

#[test]
fn advice_suits_every_front_end() {
    for task in Task::ALL {
        if let Err(error) = Model::builtin(task) {
            let text = error.to_string();
            assert!(text.contains(task.as_str()) && text.contains("file") && !text.contains("--"), "{text}");
        }
    }
}
