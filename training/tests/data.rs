//! Images: found, split without leaks, matched in intensity; batches that depend on seed and number alone.

mod common;

use mdr::Task;
use mdr_train::config::{Config, Split};
use mdr_train::pairs::{self, Entry, Images, Pair, Plane};
use mdr_train::patches::{Loader, Sampler};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn splits(entries: &[Entry]) -> BTreeMap<Split, BTreeSet<String>> {
    let mut splits: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for entry in entries {
        splits.entry(entry.split).or_default().insert(entry.path().display().to_string());
    }
    splits
}

#[test]
fn split_is_by_file_seeded_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..8 {
        common::write_phantoms(&folder.path().join(format!("denoise/set/clean/{number}.tif")), 3, number, None);
    }
    // As macOS leaves them beside what it copies.
    std::fs::write(folder.path().join("denoise/set/clean/._0.tif"), b"no image").unwrap();
    let config = common::smoke(&["data.validation_fraction=0.25", "simulate.phantoms=0.0"]);
    let entries = pairs::find(&config, folder.path()).unwrap();
    assert_eq!(entries, pairs::find(&config, folder.path()).unwrap());
    let split = splits(&entries);
    assert_eq!((split[&Split::Train].len(), split[&Split::Val].len()), (6, 2));
    assert!(split[&Split::Train].is_disjoint(&split[&Split::Val]));

    // All three planes of a file are in the part of the file: no plane of a validation stack is trained on.
    let load = |part| pairs::load(&entries, part, &config, folder.path()).unwrap().clean;
    let files = |part| -> BTreeSet<String> {
        load(part).iter().map(|clean| clean.name.split(" plane ").next().unwrap().to_owned()).collect()
    };
    assert_eq!((load(Split::Train).len(), load(Split::Val).len()), (18, 6));
    assert_eq!(files(Split::Train), split[&Split::Train]);
    assert_eq!(files(Split::Val), split[&Split::Val]);

    let choices: BTreeSet<_> = (0..20)
        .map(|seed| {
            let config = Config { seed, ..config.clone() };
            splits(&pairs::find(&config, folder.path()).unwrap())[&Split::Val].clone()
        })
        .collect();
    assert!(choices.len() > 5, "the seed decides: {choices:?}");
}

#[test]
fn folders_named_train_val_and_test_are_the_split() {
    let folder = tempfile::tempdir().unwrap();
    for (number, part) in ["train", "train", "val", "test"].into_iter().enumerate() {
        for side in ["low", "high"] {
            let path = folder.path().join(format!("denoise/{part}/{side}/{number}.tif"));
            common::write_phantoms(&path, 1, number as u64, None);
        }
    }
    let split = splits(&pairs::find(&common::smoke(&[]), folder.path()).unwrap());
    let names = |part: &str, numbers: &[usize]| -> BTreeSet<String> {
        numbers.iter().map(|number| format!("denoise/{part}/high/{number}.tif")).collect()
    };
    assert_eq!(split[&Split::Train], names("train", &[0, 1]));
    assert_eq!(split[&Split::Val], names("val", &[2]));
    assert_eq!(split[&Split::Test], names("test", &[3]));
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let find = |config: &Config| format!("{:#}", pairs::find(config, folder.path()).unwrap_err());
    assert!(find(&common::smoke(&[])).contains("denoise: no such folder"));
    std::fs::create_dir_all(folder.path().join("denoise/high")).unwrap();
    assert!(find(&common::smoke(&[])).contains("found neither low/NAME.tif"));
    common::write_phantoms(&folder.path().join("denoise/low/a.tif"), 1, 0, None);
    assert!(find(&common::smoke(&[])).contains("has no partner"));
}

#[test]
fn planes_of_stacks_are_clean_images_of_the_task_axial_alone() {
    let folder = tempfile::tempdir().unwrap();
    for task in ["axial", "denoise"] {
        common::write_phantoms(&folder.path().join(format!("{task}/brain/stack/a.tif")), 3, 0, None);
    }
    let optics = "simulate.axial={ step = [2.0, 4.0] }";
    let axial = common::smoke(&["task=axial", optics]);
    let found = pairs::find(&axial, folder.path()).unwrap();
    assert_eq!(pairs::load(&found, Split::Train, &axial, folder.path()).unwrap().clean.len(), 3);
    let error = format!("{:#}", pairs::find(&common::smoke(&[]), folder.path()).unwrap_err());
    assert!(error.contains("denoise: found neither") && !error.contains("stack"), "{error}");
}

#[test]
fn each_task_has_its_own_split() {
    let folder = tempfile::tempdir().unwrap();
    let parts = ["denoise/train", "denoise/train", "denoise/val", "axial", "axial", "axial"];
    for (number, part) in parts.iter().enumerate() {
        for side in ["low", "high"] {
            let path = folder.path().join(format!("{part}/{side}/{number}.tif"));
            common::write_phantoms(&path, 1, number as u64, None);
        }
    }
    let mut config = common::smoke(&["method=cgan", common::PAIRS_ONLY]);
    (config.tasks, config.simulate) = (vec![Task::Denoise, Task::Axial], None);
    let found = pairs::find(&config, folder.path()).unwrap();
    let count = |task, split| found.iter().filter(|entry| (entry.task, entry.split) == (task, split)).count();
    assert_eq!([count(0, Split::Train), count(0, Split::Val)], [2, 1], "named");
    assert_eq!([count(1, Split::Train), count(1, Split::Val)], [2, 1], "seeded");
}

#[test]
fn images_named_under_exclude_stay_out() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cells", "nuclei", "nuclei_2"] {
        common::write_phantoms(&folder.path().join(format!("clean/set/clean/{name}.tif")), 1, 0, None);
    }
    let mut config = common::smoke(&["data.folders=[{ path = \"clean/set\", exclude = [\"nuclei\"] }]"]);
    let found: BTreeSet<_> = splits(&pairs::find(&config, folder.path()).unwrap()).into_values().flatten().collect();
    let rest = ["cells", "nuclei_2"].map(|name| format!("clean/set/clean/{name}.tif"));
    assert_eq!(found, BTreeSet::from(rest), "no more and no less than the named image is left out");

    config.data.folders[0].exclude = vec!["nucleus".to_owned()];
    let error = format!("{:#}", pairs::find(&config, folder.path()).unwrap_err());
    assert!(error.contains("no image \"nucleus\" to exclude"), "{error}");
}

#[test]
fn references_are_matched_to_their_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |side: &str| folder.path().join(format!("denoise/train/{side}/a.tif"));
    common::write_phantoms(&path("low"), 1, 3, None);
    // The reference is the input times 3 plus 1000, but for one very bright sample, which moves its percentiles.
    let mut image = mdr::tiff_io::read_tiff(path("low")).unwrap();
    image.samples.iter_mut().for_each(|sample| *sample = *sample * 3.0 + 1000.0);
    image.samples[0] = 1e6;
    std::fs::create_dir_all(path("high").parent().unwrap()).unwrap();
    mdr::tiff_io::write_tiff(path("high"), &image, false).unwrap();
    let images = |changes: &[&str]| {
        let config = common::smoke(&[&[common::PAIRS_ONLY, "data.percentile_high=100"], changes].concat());
        let entries = pairs::find(&config, folder.path()).unwrap();
        pairs::load(&entries, Split::Train, &config, folder.path()).unwrap()
    };
    let difference = |images: &Images| {
        let pair = &images.pairs[0];
        let samples = pair.input.samples.iter().zip(&pair.target.samples);
        samples.map(|(input, target)| input - target).sum::<f32>().abs() / pair.input.samples.len() as f32
    };
    assert!(difference(&images(&["data.match_intensity=true"])) < 1e-5);
    assert!(difference(&images(&[])) < 1e-5);
    assert!(difference(&images(&["data.match_intensity=false"])) > 1e-3);
    // Without a word in the config, super-resolution is not matched.
    let data = common::smoke(&[]).data;
    let matched = [Task::Denoise, Task::Axial, Task::SuperResolve].map(|task| data.matches_intensity(task));
    assert_eq!(matched, [true, true, false]);
}

#[test]
fn batches_depend_on_seed_and_number_alone() {
    let folder = tempfile::tempdir().unwrap();
    common::write_data(folder.path(), 4);
    let config =
        common::smoke(&["simulate.fraction=0.5", "simulate.phantoms=0.3", "train.batch=12", "train.loader_threads=3"]);
    let sampler = |config: &Config| {
        let entries = pairs::find(config, folder.path()).unwrap();
        Sampler::new(config, pairs::load(&entries, Split::Train, config, folder.path()).unwrap()).unwrap()
    };
    let one = sampler(&config);
    let wanted: Vec<_> = (5..15).map(|index| one.batch(index).unwrap()).collect();
    // Another sampler, three threads, not from the start.
    let mut loader = Loader::start(Arc::new(sampler(&config)), 5);
    for (index, wanted) in wanted.iter().enumerate() {
        assert_eq!(&loader.take().unwrap(), wanted, "batch {}", index + 5);
    }
    assert_ne!(wanted[0], wanted[1]);
    assert_ne!(sampler(&Config { seed: 8, ..config }).batch(5).unwrap(), wanted[0]);
}

#[test]
fn input_and_target_are_cut_alike() {
    let folder = tempfile::tempdir().unwrap();
    for side in ["low", "high"] {
        common::write_phantoms(&folder.path().join(format!("denoise/train/{side}/a.tif")), 1, 5, None);
    }
    let mean = |superpose: &str| {
        let config = common::smoke(&[common::PAIRS_ONLY, "train.batch=16", superpose]);
        let entries = pairs::find(&config, folder.path()).unwrap();
        let images = pairs::load(&entries, Split::Train, &config, folder.path()).unwrap();
        let batch = Sampler::new(&config, images).unwrap().batch(0).unwrap().to_batch(tch::Device::Cpu);
        assert_eq!(batch.input.size(), [16, 1, 32, 32]);
        let difference = (&batch.input - &batch.target).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
        batch.input.mean(tch::Kind::Float).double_value(&[])
    };
    // Two specimens are brighter than one, by half on average; draws differ.
    let [one, two] = ["patches.superpose=0.0", "patches.superpose=1.0"].map(mean);
    assert!(two > 1.2 * one && one > 0.0, "{one} {two}");
}

#[test]
fn what_belongs_together_is_cut_alike_where_a_gan_has_a_use_for_it() {
    let folder = tempfile::tempdir().unwrap();
    common::write_data(folder.path(), 4);
    for number in 0..4 {
        let path = folder.path().join(format!("denoise/degraded/{number}.tif"));
        common::write_phantoms(&path, 1, 90 + number, None);
    }
    let weights = |lambda: f64, pairs: usize| {
        let config = common::smoke(&[
            common::PAIRS_ONLY,
            "method=separate-gan",
            "gan.content=pixel",
            "data.validation_fraction=0.0",
            &format!("data.pairs={pairs}"),
            &format!("gan.lambda_pairs={lambda}"),
        ]);
        let entries = pairs::find(&config, folder.path()).unwrap();
        let images = pairs::load(&entries, Split::Train, &config, folder.path()).unwrap();
        let sampler = Sampler::new(&config, images).unwrap();
        let mut weights = Vec::new();
        for number in 0..4 {
            let batch = sampler.batch(number).unwrap().to_batch(tch::Device::Cpu);
            let left = mdr_train::losses::unexplained(&batch.target, &batch.input, &batch.weight);
            let paired = Vec::<f32>::try_from(batch.weight.reshape([-1])).unwrap();
            if paired.contains(&1.0) {
                // Half of them; 20 photons leave more than a tenth of the variance to structures.
                assert!(left.double_value(&[]) < 0.5 * f64::ln(0.9), "{left:?}");
            }
            weights.extend(paired);
        }
        weights
    };
    assert_eq!(weights(1.0, 4), [1.0, 0.0].repeat(8));
    assert_eq!(weights(0.0, 4), [0.0; 16]);
    assert_eq!(weights(1.0, 0), [0.0; 16]);
}

#[test]
fn pairs_that_teach_nothing_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = common::smoke(&[common::PAIRS_ONLY]);
    let path = |side: &str| folder.path().join(format!("denoise/train/{side}/a.tif"));
    let loaded = || {
        let entries = pairs::find(&config, folder.path()).unwrap();
        pairs::load(&entries, Split::Train, &config, folder.path()).map(drop).map_err(|error| format!("{error:#}"))
    };
    let constant = mdr::Image::from_plane(80, 96, vec![7.0; 80 * 96]).unwrap();
    for side in ["low", "high"] {
        let _ = std::fs::remove_dir_all(folder.path().join("denoise"));
        for side in ["low", "high"] {
            common::write_phantoms(&path(side), 1, 1, None);
        }
        assert_eq!(loaded(), Ok(()));
        mdr::tiff_io::write_tiff(path(side), &constant, true).unwrap();
        let error = loaded().unwrap_err();
        assert!(error.contains("a.tif") && error.contains("constant"), "{side}: {error}");
    }
    // A folder low by itself is not where its partners are looked for.
    let error = format!("{:#}", pairs::below(&folder.path().join("denoise/train/low")).unwrap_err());
    assert!(error.contains("found neither low/NAME.tif with high/NAME.tif"), "{error}");
}

#[test]
fn pairs_that_look_exchanged_are_counted_by_what_their_task_does() {
    let (y, x) = (64, 32);
    let rough = |seed: u32| -> Vec<f32> {
        let noise = |i: u32| (i + seed).wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519) >> 8;
        (0..y * x).map(|i| noise(i) as f32 / (1 << 24) as f32).collect()
    };
    // Each sample the mean of three along Y.
    let smooth = |samples: &[f32]| -> Vec<f32> {
        let row = |i: u32, by: u32| samples[((i / x + by) % y * x + i % x) as usize];
        (0..y * x).map(|i| (row(i, 0) + row(i, 1) + row(i, 2)) / 3.0).collect()
    };
    let plane = |samples: Vec<f32>| Plane { y: y as usize, x: x as usize, samples };
    let pair = |seed: u32, smooth_input: bool, task: usize| {
        let (rough, smooth) = (plane(rough(seed)), plane(smooth(&rough(seed))));
        let (input, target) = if smooth_input { (smooth, rough) } else { (rough, smooth) };
        Pair { name: String::new(), weight: 1.0, task, input, target }
    };
    for (task, blurs) in [(Task::Denoise, false), (Task::Axial, true), (Task::SuperResolve, true)] {
        let pairs = |exchanged: usize| -> Vec<Pair> {
            let of_task = (0..4_u32).map(|seed| pair(seed, blurs ^ ((seed as usize) < exchanged), 1));
            // Those of another task do not count.
            of_task.chain((0..9).map(|seed| pair(seed, !blurs, 0))).collect()
        };
        for right in 0..3 {
            assert_eq!(pairs::exchanged(&pairs(right), 1, task), None, "{task}: half of them, at most");
        }
        let said = pairs::exchanged(&pairs(3), 1, task).unwrap();
        let look = if blurs { "rougher" } else { "smoother" };
        let expected = format!("warning: {task}: in 3 of 4 pairs the degraded image is {look} than its reference");
        assert!(said.starts_with(&expected), "{said}");
        assert_eq!(pairs::exchanged(&pairs(4), 2, task), None, "no pair");
    }
}
