//! The loop: a network learns one batch by heart; a stopped and resumed run ends as one that never stopped; NaN stops a
//! run and leaves the last good checkpoint; the U-Net, the loss and Adam agree with PyTorch.

mod common;

use mdr_train::config::Config;
use mdr_train::methods::Batch;
use mdr_train::train::{self, RunFolder};
use mdr_train::{checkpoint, export, methods::State};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

#[test]
fn one_batch_is_learnt_by_heart() {
    for precision in ["train.precision=f32", "train.precision=bf16"] {
        let config = common::smoke(&["net.features=8", precision]);
        let mut method = config.method.build(&config, Device::Cpu);
        tch::manual_seed(1);
        let image = || Tensor::rand([2, 1, 16, 16], (Kind::Float, Device::Cpu));
        let weight = Tensor::ones([2, 1, 1, 1], (Kind::Float, Device::Cpu));
        let batch = Batch { task: 0, input: image(), target: image(), weight };
        let loss = |losses: Vec<(&str, Tensor)>| losses[0].1.double_value(&[]);
        let first = loss(method.step(&batch, 3e-3));
        let last = (0..400).map(|_| loss(method.step(&batch, 3e-3))).last().unwrap();
        assert!(last < 0.25 * first, "{precision}: {first} → {last}");
    }
}

fn tensors(path: &Path) -> State {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (tensors(a), tensors(b));
    assert!(a.len() > 40, "weights, averages and moments: {}", a.len());
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, tensor) in &a {
        assert!(tensor.equal(&b[name]), "{name} differs");
    }
}

/// Columns of log.csv that do not depend on the speed of the machine.
fn log(run: &RunFolder) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(run.log()).unwrap();
    let cells = |line: &str| line.split(',').enumerate().filter(|(i, _)| *i != 2).map(|(_, c)| c.to_owned()).collect();
    text.lines().map(cells).collect()
}

#[test]
fn a_resumed_run_ends_as_if_it_had_never_stopped() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 4);
    for precision in ["train.precision=f32", "train.precision=bf16"] {
        let config = common::smoke(&[
            "simulate.fraction=0.5",
            "simulate.phantoms=0.3",
            "train.steps=20",
            "train.validate_every=10",
            "train.log_every=5",
            "train.ema=0.9",
            "train.loader_threads=2",
            precision,
        ]);
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str| RunFolder::new(&folder.path().join(name));
        let whole = run("whole");
        let start =
            |run: &RunFolder, stop: &dyn Fn(u64) -> bool| train::start(&config, data.path(), run, Device::Cpu, stop);
        assert!(start(&whole, &|_| false).unwrap().finished);
        assert_eq!(log(&whole).len(), 5);
        // At a validation; between two rows of the log; twice before the first row, then after a validation.
        for stops in [&[10][..], &[7], &[3, 4, 13]] {
            let parts = run(&format!("stopped at {stops:?}"));
            let stop = |step| stops.contains(&step);
            assert!(!start(&parts, &stop).unwrap().finished);
            for _ in 1..stops.len() {
                assert!(!train::resume(data.path(), &parts, Device::Cpu, &stop).unwrap().finished);
            }
            let resumed = train::resume(data.path(), &parts, Device::Cpu, &|_| false).unwrap();
            assert!(resumed.finished);
            assert_eq!(resumed.position.step, 20);
            assert_same(&whole.last(), &parts.last());
            assert_same(&whole.best(), &parts.best());
            assert_eq!(log(&whole), log(&parts));
        }

        // A run folder is not overwritten, and other images are noticed.
        let error = start(&whole, &|_| false).unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
        common::write_data(data.path().join("other").as_path(), 3);
        let error = train::resume(&data.path().join("other"), &whole, Device::Cpu, &|_| false).unwrap_err();
        assert!(error.to_string().contains("are not those that"), "{error}");
        std::fs::remove_dir_all(data.path().join("other")).unwrap();
    }
}

#[test]
fn a_run_that_ended_early_has_ended_for_good() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 3);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::new(&folder.path().join("run"));
    let changes = ["train.steps=500", "train.validate_every=1", "train.patience=1", "train.learning_rate=0.1"];
    let config = common::smoke(&[&changes[..], &[common::PAIRS_ONLY]].concat());
    let ended = train::start(&config, data.path(), &run, Device::Cpu, &|_| false).unwrap();
    assert!(ended.finished && ended.position.step < 500, "{ended:?}");
    let (last, best) = (std::fs::read(run.last()).unwrap(), std::fs::read(run.best()).unwrap());
    assert_eq!(train::resume(data.path(), &run, Device::Cpu, &|_| false).unwrap(), ended);
    assert!(std::fs::read(run.last()).unwrap() == last && std::fs::read(run.best()).unwrap() == best);
}

#[test]
fn a_run_that_never_began_is_not_in_the_way() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 3);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::new(&folder.path().join("run"));
    let start = |config: &Config, stop: u64| train::start(config, data.path(), &run, Device::Cpu, &|step| step == stop);
    let large = common::smoke(&[common::PAIRS_ONLY, "patches.size=256", "simulate.window=256"]);
    assert!(start(&large, 0).unwrap_err().to_string().contains("less than a patch of 256x256"));
    assert!(!run.root().exists());
    let kept = common::smoke(&[common::PAIRS_ONLY, "train.keep=0.5", "train.ema=0.9"]);
    assert!(start(&kept, 0).unwrap_err().to_string().contains("there is no base"));

    // As one that was killed before its first checkpoint leaves it.
    let config = common::smoke(&[common::PAIRS_ONLY]);
    std::fs::create_dir_all(run.root()).unwrap();
    train::write(&run.config(), config.to_toml().unwrap().as_bytes()).unwrap();
    let error = train::resume(data.path(), &run, Device::Cpu, &|_| false).unwrap_err().to_string();
    assert!(error.contains("no checkpoint yet"), "{error}");
    assert!(!start(&config, 2).unwrap().finished);
    assert!(start(&config, 0).unwrap_err().to_string().contains("--resume"));
}

#[test]
fn a_run_outlives_its_base() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 3);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| RunFolder::new(&folder.path().join(name));
    let start = |config: &Config, run: &RunFolder, stop: u64| {
        train::start(config, data.path(), run, Device::Cpu, &|step| step == stop).unwrap();
    };
    let steps = [common::PAIRS_ONLY, "train.steps=4", "train.validate_every=2"];
    start(&common::smoke(&[&steps[..], &["net.features=6", "net.widest=8"]].concat()), &run("base"), 0);
    let model = export::export(&run("base"), mdr::Task::Denoise, None, None).unwrap();
    let base_path = model.clone();
    let base = format!("base={:?}", model.display().to_string());
    start(&common::smoke(&[&steps[..], &[base.as_str()]].concat()), &run("tuned"), 3);
    std::fs::remove_file(model).unwrap();
    assert!(train::resume(data.path(), &run("tuned"), Device::Cpu, &|_| false).unwrap().finished);
    let net = Config::of_run(&run("tuned").config()).unwrap().net;
    assert_eq!((net.features, net.widest), (6, Some(8)));
    let tuned = export::export(&run("tuned"), mdr::Task::Denoise, None, None).unwrap();
    let facts = mdr::Model::load(&tuned).unwrap().facts().clone();
    assert_eq!(facts.trained_on, "denoise; before, as care-denoise, on denoise");
    let described = format!("CARE for the task denoise: 4 steps, seed 7, going on from {}", base_path.display());
    assert_eq!(facts.description, described);
}

#[test]
fn what_calibration_found_stands_in_the_run_folder() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 4);
    let changes = ["simulate.fraction=0.5", "simulate.calibrate=true", "train.steps=4", "train.validate_every=2"];
    let config = common::smoke(&changes);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::new(&folder.path().join("run"));
    let photons = || Config::of_run(&run.config()).unwrap().simulate.unwrap().photons;
    train::start(&config, data.path(), &run, Device::Cpu, &|step| step == 3).unwrap();
    // The camera of `write_data` has 20 at the bright end.
    let found = photons();
    assert!(12.0 < found[0] && found[0] < found[1] && found[1] < 32.0, "{found:?}");
    assert!(train::resume(data.path(), &run, Device::Cpu, &|_| false).unwrap().finished);
    assert_eq!(photons(), found);
}

#[test]
fn nan_stops_the_run_and_leaves_the_last_good_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 2);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::new(&folder.path().join("run"));
    let config = common::smoke(&[common::PAIRS_ONLY, "train.steps=20", "train.validate_every=5"]);
    train::start(&config, data.path(), &run, Device::Cpu, &|step| step == 7).unwrap();
    let good = tensors(&run.last());

    let broken = Config::load(&run.config(), &["train.learning_rate=1e30".to_owned()]).unwrap();
    train::write(&run.config(), broken.to_toml().unwrap().as_bytes()).unwrap();
    let error = train::resume(data.path(), &run, Device::Cpu, &|_| false).unwrap_err().to_string();
    assert!(error.contains("last good checkpoints are kept"), "{error}");
    for (name, tensor) in tensors(&run.last()) {
        assert!(tensor.equal(&good[&name]), "{name}");
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let small = common::smoke(&[]);
    let position = checkpoint::Position { step: 3, best: 21.5, best_step: 2 };
    checkpoint::save(&path, small.method.build(&small, Device::Cpu).as_ref(), position, State::new()).unwrap();
    let mut same = small.method.build(&small, Device::Cpu);
    assert_eq!(checkpoint::load(&path, same.as_mut()).unwrap().0, position);
    let large = common::smoke(&["net.features=8"]);
    let error = checkpoint::load(&path, large.method.build(&large, Device::Cpu).as_mut()).unwrap_err();
    assert!(format!("{error:#}").contains("the config asks for"), "{error:#}");
    std::fs::write(&path, b"not a checkpoint").unwrap();
    assert!(checkpoint::load(&path, same.as_mut()).is_err());
}

/// `data/unet.npz` is made by `data/make_unet.py`: weights, a batch, and what PyTorch makes of it.
#[test]
fn unet_loss_and_adam_agree_with_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/unet.npz");
    let stored: BTreeMap<String, Tensor> = Tensor::read_npz(path).unwrap().into_iter().collect();
    let config = common::smoke(&["net.features=3"]);
    let mut method = config.method.build(&config, Device::Cpu);
    for (name, mut variable) in method.state() {
        if let Some(name) = name.strip_prefix("generator.net.") {
            tch::no_grad(|| variable.copy_(&stored[name]));
        }
    }
    let close = |found: &Tensor, expected: &Tensor, tolerance: f64| {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < tolerance, "{difference}");
    };
    let batch = Batch {
        task: 0,
        input: stored["input"].shallow_clone(),
        target: stored["target"].shallow_clone(),
        weight: stored["weight"].shallow_clone(),
    };
    close(&method.restore(&batch.input, 0), &stored["output"], 1e-5);
    let losses: Vec<f64> = (0..3).map(|_| method.step(&batch, 1e-2)[0].1.double_value(&[])).collect();
    close(&Tensor::from_slice(&losses), &stored["losses"], 1e-5);
    close(&method.restore(&batch.input, 0), &stored["output_after_three_steps"], 1e-4);
}
