//! A config that cannot work is refused with the value, what was expected, and what was found.

mod common;

use mdr_train::config::{Config, Precision, Simulate};
use std::path::{Path, PathBuf};

#[test]
fn mistakes_are_named() {
    let cases = [
        ("net.depth=0", "net.depth = 0: expected 1 to 6"),
        ("net.widest=1", "net.widest = 1: expected net.features = 4 or more"),
        ("net.kernel=4", "net.kernel = 4: expected an odd number"),
        ("net.feature=4", "unknown field `feature`"),
        ("method=carre", "unknown variant `carre`"),
        ("task=denoising", "unknown variant `denoising`"),
        ("patches.size=30", "patches.size = 30: expected at least 8, and a multiple of 4"),
        ("patches.superpose=2.0", "patches.superpose = 2: expected 0 to 1"),
        ("data.percentile_low=99.9", "expected 0 <= low < high <= 100"),
        ("data.validation_fraction=1.5", "data.validation_fraction = 1.5: expected 0 to 1"),
        ("simulate.photons=[9.0, 3.0]", "simulate.photons = [9, 3]: expected [a, b]"),
        ("simulate.window=16", "simulate.window = 16: expected patches.size = 32 to 4096"),
        ("train.steps=0", "train.steps and train.batch must be above 0"),
        ("train.learning_rate=nan", "train.learning_rate = NaN"),
        ("train.ema=1.0", "train.ema = 1: expected 0 or a decay below 1"),
        ("train.keep=1.0", "train.keep = 1: expected 0 or a part below 1"),
        ("train.keep=0.5", "it needs train.ema"),
        ("train.precision=f16", "unknown variant `f16`"),
        ("train.steps", "expected KEY=VALUE"),
        ("seed.x=1", "seed is not a table"),
    ];
    for (change, expected) in cases {
        let text = include_str!("../configs/smoke.toml");
        let error = format!("{:#}", Config::parse(text, &[change.to_owned()]).expect_err(change));
        assert!(error.contains(expected), "{change}: {error}");
    }
}

/// What a method would take no notice of must not stand in its config.
#[test]
fn what_would_be_ignored_or_cannot_work_together_is_named() {
    let adversarial = ["method=cgan", "loss.lambda_adversarial=0.01"];
    let cases = [
        (&["loss.lambda_ssim=0.1"][..], "[loss] is of cgan; CARE has losses of its own"),
        (&["gan.lambda_pairs=1.0"], "gan.lambda_pairs is of cin-gan and separate-gan"),
        (&[adversarial[0], adversarial[1], "patches.size=16"], "patches.size = 16: expected at least"),
        (&[adversarial[0], adversarial[1], "gan.beta_1=1.0"], "gan.beta_1 = 1: expected 0 or a decay below 1"),
        (&["method=cgan", "loss.lambda_content=0.1"], "give them with --vgg16 FILE; to make the file: python"),
        (&["method=cycle-gan", "net.widest=8"], "net.widest is of U-Nets; CycleGAN would ignore it"),
        (&["method=cycle-gan", "patches.superpose=0.5"], "patches.superpose is of pairs, which CycleGAN does not use"),
        (&["simulate.fraction=1.0", "patches.superpose=0.5"], "of which simulate.fraction = 1 leaves no patch"),
        (&["method=cycle-gan"], "[simulate] makes pairs, which CycleGAN does not use"),
        (&["task=axial"], "needs its optics: [simulate.axial]"),
        (&["task=super-resolve"], "needs its optics: [simulate.widefield]"),
    ];
    for (changes, expected) in cases {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        let found = Config::parse(include_str!("../configs/smoke.toml"), &changes);
        let error = format!("{:#}", found.expect_err(expected));
        assert!(error.contains(expected), "{changes:?}: {error}");
    }
}

#[test]
fn shipped_configs_are_right_and_survive_the_run_folder() {
    for name in [
        "smoke",
        "care-denoise",
        "denoise",
        "axial",
        "cgan",
        "ten-pairs",
        "cin-gan",
        "super-resolve",
        "deblur-gan",
        "cycle-gan-denoise",
        "cycle-gan-axial",
        "cycle-gan-super-resolve",
    ] {
        let config = Config::load(&shipped(name), &[]).unwrap();
        assert_eq!(Config::parse(&config.to_toml().unwrap(), &[]).unwrap(), config);
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name).with_extension("toml")
}

#[test]
fn a_simulation_may_be_like_that_of_another_config() {
    let of = |name: &str, changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        Config::load(&shipped(name), &changes).map(|config| config.simulate.unwrap())
    };
    for task in ["denoise", "axial", "super-resolve"] {
        for task_set in [format!("task={task}"), format!("task=[{task:?}]")] {
            let found = of("ten-pairs", &[&task_set]).unwrap();
            let other = of(task, &[]).unwrap();
            let expected = Simulate { fraction: 0.1, weight_by_range: 0.0, validation_windows: 0, ..other };
            assert_eq!(found, expected, "what the config says itself goes first");
        }
    }
    let error = |like: &str| format!("{:#}", of("ten-pairs", &[&format!("simulate.like={like}")]).unwrap_err());
    assert!(error("missing.toml").contains("configs/missing.toml"), "{}", error("missing.toml"));
    assert!(error("cgan.toml").contains("has no [simulate]"), "{}", error("cgan.toml"));
}

#[test]
fn a_bare_word_is_a_string() {
    assert_eq!(common::smoke(&["train.precision=bf16"]).train.precision, Precision::Bf16);
}
