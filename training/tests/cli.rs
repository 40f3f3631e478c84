//! The program: a whole run in a few seconds, what it leaves, and one line and status 1 where it cannot.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn mdr_train(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mdr-train"));
    command.args(arguments).env_remove("LD_LIBRARY_PATH");
    paths.iter().for_each(|(option, path)| {
        command.arg(option).arg(path);
    });
    command.output().expect("the program starts without LD_LIBRARY_PATH")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_from_images_to_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run) = (folder.path().join("data"), folder.path().join("run"));
    common::write_data(&data, 3);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke.toml");
    let options = ["train", "--device", "cpu", "--threads", "1", "--set", "simulate.fraction=0.5"];
    let output = mdr_train(&options, &[("--config", &config), ("--data", &data), ("--out", &run)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("2 pairs and"), "{}", text(&output.stderr));
    for file in ["config.toml", "split.json", "log.csv", "samples/0000040.png", "checkpoints/last.safetensors"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    for file in ["checkpoints/best.safetensors", "model.onnx", "parity.json", "report.html"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert!(std::fs::read_to_string(run.join("split.json")).unwrap().contains("denoise/clean/"));
    let events = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents.");
    assert!(std::fs::read_dir(&run).unwrap().any(|entry| events(&entry.unwrap())));
    let report = std::fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "<polyline",
        "data:image/png;base64,",
        "tch and mdr differ",
        "features = 4",
        ": CARE, denoise</h1>",
        "seed 7. From ",
    ] {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("http"), "the report needs nothing from elsewhere");

    let output = mdr_train(&["evaluate"], &[("--model", &run.join("model.onnx")), ("--data", &data)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tables = text(&output.stdout);
    let (scores, rings) = tables.split_once("\n\n").unwrap();
    assert_eq!(scores.lines().next().unwrap().matches("plain, scale input").count(), 2, "{scores}");
    assert!(scores.lines().last().unwrap().starts_with("all                    3"), "{scores}");
    assert_eq!(rings.lines().count(), 7, "{rings}");
    let bars = |line: &str| line.match_indices('|').map(|(place, _)| place).collect::<Vec<_>>();
    for table in [scores, rings] {
        assert!(table.lines().all(|line| bars(line) == bars(table.lines().next().unwrap())), "{table}");
    }

    // 3 pairs, 1 of them for validation; the smoke config simulates phantoms only.
    let facts = mdr::Model::load(&run.join("model.onnx")).unwrap().facts().clone();
    let metrics = facts.metrics.unwrap();
    assert_eq!(metrics["data"], "validation: 1 real pair of denoise; 2 windows of phantoms, simulated noise");
    assert_eq!(
        (&metrics["images"], &metrics["pairs"], &metrics["simulated_windows"]),
        (&3.into(), &1.into(), &2.into())
    );

    let copy = folder.path().join("copy.onnx");
    let output = mdr_train(&["export", &run.display().to_string()], &[("--out", &copy)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(run.join("model.onnx")).unwrap());
    let again = mdr_train(&["export", &run.display().to_string()], &[("--out", &copy)]);
    assert!(!again.status.success() && text(&again.stderr).contains("exists already"), "{}", text(&again.stderr));
    assert!(mdr_train(&["export", "--force", &run.display().to_string()], &[("--out", &copy)]).status.success());
}

#[test]
fn a_run_says_what_it_has_less_of_than_one_might_think() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    common::write_data(&data, 3);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke.toml");
    let said = |name: &str, changes: &[&str]| {
        let mut options = vec!["train", "--threads", "1"];
        for change in [&[common::PAIRS_ONLY, "train.steps=2", "train.validate_every=2"], changes].concat() {
            options.extend(["--set", change]);
        }
        let out = folder.path().join(name);
        let output = mdr_train(&options, &[("--config", &config), ("--data", &data), ("--out", &out)]);
        assert!(output.status.success() && out.join("model.onnx").is_file(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(!said("usual", &["data.pairs=2"]).contains("warning"));
    let listed = std::fs::read_to_string(folder.path().join("usual/split.json")).unwrap();
    let of = |part: &str| listed.matches(&format!("\"split\": \"{part}\"")).count();
    assert_eq!((of("train"), of("val"), listed.contains("clean")), (2, 1, false), "what is read: {listed}");
    let all = said("all", &["data.validation_fraction=0.0", "data.pairs=99"]);
    assert!(all.contains("warning: data.pairs asks for 99 pairs to train on, and there are 3\n"), "{all}");
    assert!(all.contains("warning: there is nothing to validate on"), "{all}");
    let [low, high, other] = ["low", "high", "other"].map(|name| data.join("denoise").join(name));
    for (from, to) in [(&low, &other), (&high, &low), (&other, &high)] {
        std::fs::rename(from, to).unwrap();
    }
    let exchanged = said("exchanged", &[]);
    assert!(exchanged.contains("warning: denoise: in 2 of 2 pairs the degraded image is smoother"), "{exchanged}");
    for (from, to) in [(&low, &other), (&high, &low), (&other, &high)] {
        std::fs::rename(from, to).unwrap();
    }
    let base = format!("base={}", folder.path().join("usual").display());
    let on = said("goes-on", &[&base, "train.steps=60", "train.validate_every=30"]);
    assert!(on.contains("validation base: ") && !on.contains("warning"), "{on}");
    let nothing = said("nothing", &[&base, "train.learning_rate=1e-30", "train.final_learning_rate=1e-30"]);
    assert!(nothing.contains("warning: no step is better on validation than the base"), "{nothing}");
    let report = std::fs::read_to_string(folder.path().join("goes-on/report.html")).unwrap();
    let names: BTreeSet<_> =
        listed.lines().filter_map(|line| line.split('"').nth(3)).filter(|v| v.contains("high")).collect();
    assert!(names.len() == 3 && names.iter().all(|name| report.contains(name)), "{names:?}");
    let wider = said("wider", &[&base, "net.features=8"]);
    assert!(wider.contains("warning: the network is the base's (") && wider.contains("features: 4"), "{wider}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke.toml");
    let missing = folder.path().join("missing");
    let train = |extra: &[&str], data: &Path| {
        let options = [&["train"], extra].concat();
        mdr_train(&options, &[("--config", &config), ("--data", data), ("--out", &folder.path().join("run"))])
    };
    let export = || mdr_train(&["export"], &[("--out", &missing)]);
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("denoise/clean")).unwrap();
    std::fs::write(data.join("denoise/clean/a.tif"), b"no TIFF").unwrap();
    for (output, status, expected) in [
        (train(&[], &missing), 1, "no such folder"),
        (train(&["--device", "gpu"], &data), 1, "expected auto, cpu or cuda:N"),
        (train(&["--device", "cuda:99"], &data), 1, "CUDA devices"),
        (train(&["--set", "train.stepz=1"], &data), 1, "unknown field `stepz`"),
        (train(&[], &data), 1, "a.tif"),
        (mdr_train(&["evaluate"], &[("--model", &missing), ("--data", &data)]), 1, "missing"),
        (export(), 2, "required"),
    ] {
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
    }
}
