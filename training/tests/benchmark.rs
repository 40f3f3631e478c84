//! A benchmark of tiny nets on phantoms: stopped and continued it ends as one that never stopped; a changed table redoes
//! what changed; a cell that fails is a result; pairs are chosen so that fewer are a part of more.

mod common;

use mdr_train::benchmark::{self, Options, Results, State};
use mdr_train::config::Config;
use mdr_train::pairs;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use tch::Device;

const TABLE: &str = r#"
title = "A small table"
tasks = ["denoise", "axial"]
pairs = [3]
seeds = [1, 2]
set = ["simulate.fraction=0.0", "train.steps=6", "train.validate_every=3", "train.log_every=3"]
examples = 2

[[groups]]
label = "input"
model = "input"
published = "input"

[[groups]]
label = "CARE"
config = "smoke.toml"
published = "CARE"
pairs = [1, 3, 50]
figure = "real pairs only"

[[groups]]
label = "cGAN + more"
config = "smoke.toml"
set = ["method=cgan"]
published = "ours"
figure = "+ more"

[[groups]]
label = "CARE of another width"
config = "smoke.toml"
tasks = ["denoise"]
ablation = "CARE"
seeds = [1]
set = ["net.features=2"]
"#;

/// Two tasks of three pairs to train from, one to validate on and two to test on.
fn write_data(root: &Path) {
    for (number, (task, part)) in ["denoise", "axial"]
        .iter()
        .flat_map(|task| ["train", "train", "train", "val", "test", "test"].map(|part| (task, part)))
        .enumerate()
    {
        let camera = mdr::simulate::Camera { photons: 20.0, ..Default::default() };
        let name = format!("{}_{number}.tif", if number % 2 == 0 { "even" } else { "odd" });
        for (side, camera) in [("low", Some(camera)), ("high", None)] {
            let path = root.join(task).join(part).join(side).join(&name);
            common::write_phantoms(&path, 1, number as u64, camera);
        }
    }
}

/// Writes a table beside the smoke config, and runs it; ends after `steps` of training.
fn run(folder: &Path, table: &str, name: &str, only: &[&str], steps: usize) -> (Results, bool) {
    try_run(folder, table, name, only, steps).unwrap()
}

fn try_run(folder: &Path, table: &str, name: &str, only: &[&str], steps: usize) -> anyhow::Result<(Results, bool)> {
    tch::set_num_threads(1);
    let config = folder.join("table.toml");
    std::fs::write(&config, table).unwrap();
    std::fs::write(folder.join("smoke.toml"), include_str!("../configs/smoke.toml")).unwrap();
    let left = Cell::new(steps);
    let stop = || {
        left.set(left.get().saturating_sub(1));
        left.get() == 0
    };
    let only: Vec<String> = only.iter().map(|label| (*label).to_owned()).collect();
    let (data, out) = (folder.join("data"), folder.join(name));
    let options = Options {
        config: &config,
        data: &data,
        out: &out,
        only: &only,
        pairs: &[],
        seeds: &[],
        set: &[],
        device: Device::Cpu,
        threads: Some(1),
        stop: &stop,
    };
    benchmark::run(&options)
}

/// What does not depend on the clock.
fn timeless(mut results: Results) -> serde_json::Value {
    for cell in &mut results.cells {
        (cell.seconds, cell.steps_per_s) = (0.0, 0.0);
    }
    results.date.clear();
    serde_json::to_value(results).unwrap()
}

fn keys(results: &Results) -> Vec<&str> {
    results.cells.iter().map(|cell| cell.key.as_str()).collect()
}

#[test]
fn a_benchmark_from_table_to_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(&folder.join("data"));
    let (whole, done) = run(folder, TABLE, "whole", &[], usize::MAX);
    assert!(done);
    // Three pairs are all there are: 50 is the same cell as 3, and is said to be.
    let of_seed = |seed| {
        let labels =
            ["care-denoise-n1", "care-axial-n1", "care-denoise-n3", "care-axial-n3", "cgan-plus-more-denoise-n3"];
        let more = ["cgan-plus-more-axial-n3", "care-of-another-width-denoise-n3"];
        // The last is of the first seed alone.
        labels.into_iter().chain(more).take(if seed == 1 { 7 } else { 6 }).map(move |key| format!("{key}-s{seed}"))
    };
    let expected: Vec<String> = ["input-denoise", "input-axial"]
        .map(String::from)
        .into_iter()
        .chain([1, 2].into_iter().flat_map(of_seed))
        .collect();
    assert_eq!(keys(&whole), expected);
    assert_eq!(whole.beyond.iter().map(|b| (b.group, b.asked, b.available)).collect::<Vec<_>>(), [(1, 50, 3)]);
    for cell in &whole.cells {
        assert_eq!((cell.state, &cell.error), (State::Finished, &None), "{}", cell.key);
        assert_eq!(cell.scores[0].images.len(), 2, "{}", cell.key);
        assert!(cell.seed.is_none() || (cell.steps == [6, 6] && cell.steps_per_s > 0.0), "{}", cell.key);
    }
    let score = |key: &str| whole.cells.iter().find(|cell| cell.key == key).unwrap().scores[0].mean.psnr_affine;
    assert_ne!(score("care-denoise-n3-s1"), score("care-denoise-n3-s2"), "the seed matters");
    assert_ne!(score("care-denoise-n3-s1"), score("care-denoise-n1-s1"), "so does the number of pairs");

    let out = folder.join("whole");
    let stored: Results = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    assert!(timeless(stored) == timeless(whole.clone()));
    let cell = out.join("cells/care-denoise-n3-s1");
    assert!(cell.join("model.onnx").exists() && cell.join("report.html").exists());
    assert!(!cell.join("checkpoints/best.safetensors").exists(), "nothing builds upon it");

    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(!report.contains("http"), "the report needs nothing from elsewhere");
    assert_eq!(report.matches("data:image/png;base64,").count(), 2, "a sheet for each task");
    let input = format!("{:.2}", score("input-denoise"));
    for part in [
        "A small table",
        "19.92 / 0.63",
        "22.4 / 0.56",
        "N = 50: the data have 3 pairs",
        &input,
        "<polyline",
        "<circle",
    ] {
        assert!(report.contains(part), "{part}");
    }
    // CARE's row of three pairs has it, that of one has not.
    assert_eq!(report.matches("21.6 / 0.56").count(), 1);
    let ablations = &report[report.find("Ablations").unwrap()..report.find("Examples").unwrap()];
    let place = |label: &str| ablations.find(&format!("<td>{label}<td>")).unwrap();
    assert!(place("CARE") < place("CARE of another width"));
    // Image by image, of two images and the one seed that both have: the standard error is half of how far the two gains
    // are apart.
    let image = |key: &str, number: usize| {
        let cell = whole.cells.iter().find(|cell| cell.key == format!("{key}-n3-s1")).unwrap();
        cell.scores[0].images[number].figures.psnr_affine
    };
    let gains = [0, 1].map(|number| image("care-of-another-width-denoise", number) - image("care-denoise", number));
    let better = gains.iter().filter(|&&gain| gain > 0.0).count();
    let expected = format!("seeds: 1; images ± {:.2}, {better} of 2 better", (gains[0] - gains[1]).abs() / 2.0);
    assert!(ablations.contains(&expected), "{expected}: {ablations}");

    // Stopped within the second cell, and between others.
    for steps in [8, 5, 40] {
        assert!(!run(folder, TABLE, "parts", &[], steps).1);
    }
    let (parts, done) = run(folder, TABLE, "parts", &[], usize::MAX);
    assert!(done);
    assert!(timeless(parts) == timeless(whole.clone()));

    // Nothing is left to do; after a change, what it concerns.
    assert!(run(folder, TABLE, "whole", &[], 1).1);
    let changed = TABLE.replace("net.features=2", "net.features=3");
    let (stopped, done) = run(folder, &changed, "whole", &[], 1);
    let open: Vec<_> =
        stopped.cells.iter().filter(|cell| cell.state == State::Open).map(|cell| &cell.key[..]).collect();
    assert!(!done);
    assert_eq!(open, ["care-of-another-width-denoise-n3-s1"]);
}

#[test]
fn a_failing_cell_is_recorded_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(&folder.join("data"));
    let table = r#"
title = "Failures"
tasks = ["denoise"]
pairs = [3]
seeds = [1]
set = ["simulate.fraction=0.0", "train.steps=4", "train.validate_every=2", "train.log_every=2"]

[[groups]]
label = "diverges"
config = "smoke.toml"
set = ["train.learning_rate=1e30"]
[[groups]]
label = "built upon it"
config = "smoke.toml"
needs = "diverges"
set = ["export.description={needs}"]
[[groups]]
label = "no such model"
model = "{task}-missing.onnx"
[[groups]]
label = "first"
config = "smoke.toml"
[[groups]]
label = "second"
config = "smoke.toml"
needs = "first"
set = ["export.description={needs} for {task}"]
"#;
    let (results, done) = run(folder, table, "out", &[], usize::MAX);
    assert!(done);
    let cell = |label: &str| {
        let group = results.groups.iter().position(|group| group.label == label).unwrap();
        results.cells.iter().find(|cell| cell.group == group).unwrap()
    };
    for (label, expected) in [
        ("diverges", "last good checkpoints"),
        ("built upon it", "diverges-denoise-n3-s1"),
        ("no such model", "denoise-missing.onnx"),
    ] {
        assert_eq!(cell(label).state, State::Failed, "{label}");
        let error = cell(label).error.as_deref().unwrap();
        assert!(error.contains(expected), "{label}: {error}");
    }
    assert_eq!((cell("first").state, cell("second").state), (State::Finished, State::Finished));
    let report = std::fs::read_to_string(folder.join("out/report.html")).unwrap();
    assert!(report.contains("last good checkpoints"));

    // The first keeps its checkpoints, and the second is told where it is.
    let cells = folder.join("out/cells");
    assert!(cells.join("first-denoise-n3-s1/checkpoints/last.safetensors").exists());
    let second = Config::load(&cells.join("second-denoise-n3-s1/config.toml"), &[]).unwrap();
    let first = std::path::absolute(cells.join("first-denoise-n3-s1")).unwrap();
    assert_eq!(second.export.description, format!("{} for denoise", first.display()));

    // Also where only the first was asked for.
    run(folder, table, "alone", &["first"], usize::MAX);
    assert!(folder.join("alone/cells/first-denoise-n3-s1/checkpoints/last.safetensors").exists());

    // A label that is none leaves no folder behind.
    let wrong = try_run(folder, table, "none", &["nobody"], usize::MAX);
    assert!(wrong.unwrap_err().to_string().contains("first; ") && !folder.join("none").exists());

    // A group alone brings what it needs; its trained cells are taken over.
    let (results, _) = run(folder, table, "out", &["second"], 1);
    assert_eq!(keys(&results), ["first-denoise-n3-s1", "second-denoise-n3-s1"]);
    assert!(results.cells.iter().all(|cell| cell.state == State::Finished));
}

#[test]
fn mistakes_in_a_table_are_said_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(&folder.join("data"));
    std::fs::write(folder.join("smoke.toml"), include_str!("../configs/smoke.toml")).unwrap();
    for (change, expected) in [
        (TABLE.replace("published", "publishd"), "unknown field `publishd`"),
        (TABLE.replace("net.features", "net.feature"), "unknown field `feature`"),
        (TABLE.replace("label = \"input\"", "label = \"Care\""), "or alike"),
        (TABLE.replace("ablation = \"CARE\"", "needs = \"more\""), "no earlier group"),
        (TABLE.replace("ablation = \"CARE\"", "ablation = \"care\""), "which is no other group"),
        (TABLE.replace("model = \"input\"", ""), "either config or model"),
    ] {
        std::fs::write(folder.join("table.toml"), change).unwrap();
        let error = plan(&folder.join("table.toml"), &folder.join("data")).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{expected}: {error:#}");
    }
}

fn plan(config: &Path, data: &Path) -> anyhow::Result<Results> {
    plan_of(config, data, &[], &[])
}

fn plan_of(config: &Path, data: &Path, pairs: &[usize], seeds: &[u64]) -> anyhow::Result<Results> {
    let out = data.join("never written");
    let stop: &dyn Fn() -> bool = &|| panic!("trains");
    let (device, threads) = (Device::Cpu, None);
    benchmark::plan(&Options { config, data, out: &out, only: &[], pairs, seeds, set: &[], device, threads, stop })
}

#[test]
fn numbers_of_pairs_and_seeds_are_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/table2.toml");
    let cells = |pairs: &[usize], seeds: &[u64]| plan_of(&table, folder.path(), pairs, seeds).unwrap().cells;
    let keys = |cells: Vec<benchmark::Cell>, wanted: &dyn Fn(&benchmark::Cell) -> bool| -> BTreeSet<String> {
        cells.into_iter().filter(wanted).map(|cell| cell.key).collect()
    };
    // What is not trained has neither number.
    let is_chosen =
        |cell: &benchmark::Cell| cell.pairs.is_none_or(|n| n == 0) && cell.seed.is_none_or(|seed| seed == 2);
    let expected = keys(cells(&[], &[]), &is_chosen);
    assert_eq!(keys(cells(&[0], &[2]), &|_| true), expected);
    assert!(expected.contains("cgan-plus-cin-gan-axial-n0-s2"));
    for (pairs, seeds, expected) in [(&[7][..], &[][..], "--pairs 7"), (&[], &[9][..], "--seeds 9")] {
        let error = plan_of(&table, folder.path(), pairs, seeds).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
}

#[test]
fn shipped_tables_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut counts = Vec::new();
    for name in ["table2.toml", "table2-gpu.toml"] {
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
        let results = plan(&table, folder.path()).unwrap();
        let published: BTreeSet<_> = results.groups.iter().filter_map(|group| group.published.as_deref()).collect();
        assert_eq!(published, BTreeSet::from(["CARE", "CycleGAN", "DeblurGAN", "input", "ours"]), "{name}");
        counts.push(results.cells.len());
    }
    assert!(counts[0] < counts[1], "{counts:?}");
    let results = plan(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/figure3.toml"), folder.path()).unwrap();
    let own = plan(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/own-pairs-table.toml"), folder.path()).unwrap();
    assert_eq!((own.groups.len(), own.cells.len()), (3, 5), "input and built-in once, three seeds");
    let boxes: BTreeSet<_> = results.groups.iter().filter_map(|group| group.figure.as_deref()).collect();
    assert_eq!(boxes, BTreeSet::from(["real pairs only", "+ separate GANs", "+ CIN-GAN"]));
}

#[test]
fn fewer_pairs_are_a_part_of_more() {
    let folder = tempfile::tempdir().unwrap();
    common::write_data(folder.path(), 8);
    let names = |count: &str, seed: u64| -> BTreeSet<String> {
        let config = common::smoke(&[count, &format!("seed={seed}"), "data.validation_fraction=0.0"]);
        let found = pairs::find(&config, folder.path()).unwrap();
        assert_eq!(found.iter().filter(|entry| !entry.is_pair()).count(), 8, "others are not touched");
        found.iter().filter(|entry| entry.is_pair()).map(|entry| entry.path().display().to_string()).collect()
    };
    let mut larger = names("data.pairs=100", 1);
    assert_eq!(larger.len(), 8);
    for count in (0..8).rev() {
        let smaller = names(&format!("data.pairs={count}"), 1);
        assert_eq!(smaller.len(), count);
        assert!(smaller.is_subset(&larger));
        larger = smaller;
    }
    let choices: BTreeSet<_> = (0..20).map(|seed| names("data.pairs=2", seed)).collect();
    assert!(choices.len() > 5, "the seed decides: {choices:?}");
}
