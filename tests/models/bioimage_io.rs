//! bioimage.io packages, made here in temporary folders: spec 0.4 and 0.5, folder, zip and description alone; and what
//! is refused, by name.

use crate::common::*;
use mdr::{Error, Model, Normalization};
use std::io::Write;
use std::path::Path;

const NEW: &str = r#"
format_version: 0.5.3
type: model
name: Test U-Net
description: restores nothing
license: CC-BY-4.0
authors: [{name: A. One}, {name: B. Two}]
training_data: {id: some-beads}
inputs:
  - id: raw
    axes:
      - {type: batch}
      - {type: channel, channel_names: [raw]}
      - {type: space, id: y, size: {min: 16, step: 8}}
      - {type: space, id: x, size: {min: 16, step: 8}}
    preprocessing:
      - {id: ensure_dtype, kwargs: {dtype: float32}}
      - {id: scale_range, kwargs: {axes: [channel, y, x], min_percentile: 1.0, max_percentile: 99.5}}
outputs:
  - id: restored
    axes: [{type: batch}, {type: channel, channel_names: [r]}, {type: space, id: y, size: {tensor_id: raw, axis_id: y}}, {type: space, id: x, size: {tensor_id: raw, axis_id: x}}]
    postprocessing:
      - {id: ensure_dtype, kwargs: {dtype: float32}}
weights:
  onnx: {source: weights.onnx, sha256: SHA, opset_version: 17}
"#;

/// The postprocessing of [`NEW`], to be replaced.
const POSTPROCESSING: &str = "postprocessing:\n      - {id: ensure_dtype, kwargs: {dtype: float32}}";

const OLD: &str = r#"
format_version: 0.4.10
type: model
name: Old
inputs:
  - name: raw
    axes: bcyx
    data_type: float32
    shape: {min: [1, 1, 32, 32], step: [0, 0, 4, 4]}
    preprocessing: [{name: zero_mean_unit_variance, kwargs: {mode: per_sample, axes: yx}}]
outputs: [{name: out, axes: bcyx, data_type: float32}]
weights:
  onnx: {source: ./weights.onnx}
"#;

fn sha() -> String {
    Model::from_bytes("m", &unet(1, 2)).unwrap().facts().sha256.clone()
}

fn package(folder: &Path, rdf: &str) {
    std::fs::write(folder.join("rdf.yaml"), rdf.replace("SHA", &sha())).unwrap();
    std::fs::write(folder.join("weights.onnx"), unet(1, 2)).unwrap();
}

fn load(rdf: &str) -> Result<Model, Error> {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), rdf);
    Model::load(folder.path())
}

fn zip(path: &Path, entries: &[(&str, &[u8])]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn facts_of_a_package() {
    let model = load(NEW).unwrap();
    let facts = model.facts();
    assert_eq!((facts.name.as_str(), facts.license.as_str()), ("Test U-Net", "CC-BY-4.0"));
    assert_eq!((facts.authors.as_str(), facts.trained_on.as_str()), ("A. One, B. Two", "some-beads"));
    assert_eq!(facts.normalization, Normalization::Percentile { low: 1.0, high: 99.5 });
    assert_eq!((facts.tile_multiple, model.multiple()), (8, [1, 8, 8]));
    assert_eq!(facts.sha256, sha());

    let old = load(OLD).unwrap();
    assert_eq!((old.facts().normalization, old.facts().tile_multiple), (Normalization::MeanStd, 4));
}

#[test]
fn folder_zip_and_description() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), NEW);
    let rdf = NEW.replace("SHA", &sha());
    let flat = folder.path().join("flat.zip");
    zip(&flat, &[("rdf.yaml", rdf.as_bytes()), ("weights.onnx", &unet(1, 2))]);
    let nested = folder.path().join("nested.zip");
    zip(&nested, &[("net/bioimageio.yaml", rdf.as_bytes()), ("net/weights.onnx", &unet(1, 2))]);
    for path in [folder.path(), &folder.path().join("rdf.yaml"), &flat, &nested] {
        let model = Model::load(path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.facts().name, "Test U-Net");
    }
}

#[test]
fn fixed_scaling() {
    let pre = "[{name: scale_linear, kwargs: {gain: [0.5], offset: -1.0}}]";
    let old = OLD.replace("[{name: zero_mean_unit_variance, kwargs: {mode: per_sample, axes: yx}}]", pre);
    let model = load(&old).unwrap();
    assert_eq!(model.facts().normalization, Normalization::Linear { gain: 0.5, offset: -1.0 });
    let post = "data_type: float32, postprocessing: [{name: scale_linear, kwargs: {gain: 2.0, offset: 2.0}}]}]";
    assert!(load(&old.replace("data_type: float32}]", post)).is_ok());
    let error = load(&old.replace("data_type: float32}]", &post.replace("2.0", "3.0"))).unwrap_err().to_string();
    assert!(error.contains("scale_linear"), "{error}");
}

#[test]
fn statistics_are_of_the_whole_stack() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weights.onnx"), identity_3d()).unwrap();
    let load = |statistics: &str| {
        let old = OLD.replace("bcyx", "bczyx").replace("[1, 1, 32, 32]", "[1, 1, 8, 32, 32]");
        let old = old.replace("[0, 0, 4, 4]", "[0, 0, 1, 4, 4]").replace("axes: yx}", &format!("axes: {statistics}}}"));
        std::fs::write(folder.path().join("rdf.yaml"), old).unwrap();
        Model::load(folder.path())
    };
    assert_eq!(load("zyx").unwrap().facts().normalization, Normalization::MeanStd);
    let error = load("yx").unwrap_err().to_string();
    assert!(error.contains("takes statistics over [\"y\", \"x\"] instead of the whole image"), "{error}");
}

#[test]
fn refusals_name_what_is_wrong() {
    for (from, to, expected) in [
        ("id: scale_range", "id: binarize", "preprocessing binarize"),
        (POSTPROCESSING, "postprocessing:\n      - {id: sigmoid}", "postprocessing sigmoid"),
        (
            POSTPROCESSING,
            "postprocessing:\n      - {id: scale_mean_variance, kwargs: {reference_tensor: raw}}",
            "postprocessing scale_mean_variance is not supported: mdr only undoes the preprocessing",
        ),
        (
            POSTPROCESSING,
            "postprocessing:\n      - {id: scale_mean_variance, kwargs: {reference_tensor: raw}}",
            "remove scale_mean_variance from the description",
        ),
        ("axes: [channel, y, x], min", "axes: [channel, y], min", "statistics"),
        ("min_percentile: 1.0", "min_percentile: 99.9", "99.9"),
        ("0.5.3", "0.6.0", "0.6.0"),
        ("type: model", "type: dataset", "dataset"),
        ("  onnx:", "  torchscript:", "torchscript"),
        ("source: weights.onnx", "source: ../weights.onnx", "outside"),
        ("source: weights.onnx", "source: https://example.org/w.onnx", "download"),
        ("sha256: SHA", "sha256: 00ff", "00ff"),
        (
            "- {type: space, id: y, size: {min: 16, step: 8}}",
            "- {type: space, id: z}\n      - {type: space, id: y}",
            "bczyx",
        ),
        (
            "id: y, size: {min: 16, step: 8}}\n      - {type: space, id: x,",
            "id: yx,",
            "an axis of type \"space\", id \"yx\" is unknown",
        ),
        ("step: 8", "step: 100000", "100000"),
        ("inputs:", "inputs: [", "YAML"),
    ] {
        assert!(NEW.contains(from), "{from}");
        let error = load(&NEW.replace(from, to)).expect_err(to);
        assert!(matches!(error, Error::BadModel { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{to}: {text}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(Model::load(empty.path()).unwrap_err().to_string().contains("rdf.yaml"));
    assert!(matches!(Model::load(&empty.path().join("absent.zip")), Err(Error::Io { .. })));
}

#[test]
fn bombs_and_damage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.zip");
    let rdf = NEW.replace(", sha256: SHA", "");
    zip(&path, &[("rdf.yaml", rdf.as_bytes()), ("weights.onnx", &vec![0; 100 << 20])]);
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let text = Model::load(&path).unwrap_err().to_string();
    assert!(text.contains("unpacks to more"), "{text}");
    // Entities that name each other.
    let mut yaml = "a0: &a0 [x, x]\n".to_owned();
    for i in 1..40 {
        yaml += &format!("a{i}: &a{i} [*a{}, *a{}, *a{}]\n", i - 1, i - 1, i - 1);
    }
    assert!(load(&yaml).is_err());
    assert!(load(&"[".repeat(100_000)).is_err());

    zip(&path, &[("rdf.yaml", rdf.as_bytes()), ("weights.onnx", &unet(1, 2))]);
    let good = std::fs::read(&path).unwrap();
    let mut numbers = Numbers::new(5);
    for _ in 0..200 {
        let mut bytes = good.clone();
        let place = numbers.below(bytes.len());
        if numbers.below(2) == 0 {
            bytes.truncate(place);
        } else {
            bytes[place] = numbers.next() as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        let _ = Model::load(&path);
    }
}
