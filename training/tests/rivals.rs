//! DeblurGAN, CycleGAN and CIN-GAN: a batch is learnt by heart, or the noise of what is shown; a stopped and resumed run
//! ends as one that never stopped; mdr computes what tch computes; a restorer learns from what a GAN has made; and VGG16's
//! weights are asked for.

mod common;

use mdr_train::methods::{Batch, Method, cin_gan::with_noise};
use mdr_train::synthesize::{Request, synthesize};
use mdr_train::train::{self, RunFolder};
use mdr_train::{config::Config, export, parity};
use rand::SeedableRng;
use rand_distr::{Distribution, Poisson};
use rand_pcg::Pcg64Mcg;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Small networks.
const SMALL: [&str; 5] = [
    "gan.blocks=1",
    "gan.discriminator.layers=2",
    "gan.discriminator.features=4",
    "gan.critic_steps=2",
    common::PAIRS_ONLY,
];

fn smoke(method: &str, changes: &[&str]) -> Config {
    common::smoke(&[&SMALL[..], &[&format!("method={method}")], changes].concat())
}

fn vgg16() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vgg16.safetensors")
}

fn built(config: &Config) -> Box<dyn Method> {
    let mut method = config.method.build(config, Device::Cpu);
    method.prepare(config).unwrap();
    method
}

/// Waves and their noisy images, the same in every run.
fn batch() -> Batch {
    let wave = Tensor::arange(2 * 32 * 32, (Kind::Float, Device::Cpu)).reshape([2, 1, 32, 32]);
    let target: Tensor = ((&wave * 0.21).sin() + 1.0) * 0.5;
    let input = &target + ((&wave * 12.9898).sin() * 43.7).frac() * 0.4;
    Batch { task: 0, input, target, weight: Tensor::ones([2, 1, 1, 1], (Kind::Float, Device::Cpu)) }
}

/// First and last value of a loss over so many steps.
fn learn(method: &mut dyn Method, name: &str, steps: usize) -> (f64, f64) {
    let batch = batch();
    let mut step = || {
        let losses = method.step(&batch, 1e-3);
        assert!(losses.iter().all(|(_, loss)| loss.double_value(&[]).is_finite()), "{losses:?}");
        let (_, loss) = losses.iter().find(|(found, _)| *found == name).unwrap();
        loss.double_value(&[])
    };
    (step(), (1..steps).map(|_| step()).last().unwrap())
}

#[test]
fn deblur_gan_learns_one_batch_by_heart() {
    let vgg16 = format!("gan.vgg16={}", vgg16().display());
    for (changes, part) in [
        (&["gan.content=pixel"][..], 0.5),
        (&["gan.content=pixel", "train.precision=bf16", "gan.dropout=0.1"], 0.5),
        (&["gan.content=features"], 0.5),
        (&["gan.content=vgg16", &vgg16], 0.5),
    ] {
        let config = smoke("deblur-gan", changes);
        let (first, last) = learn(built(&config).as_mut(), "loss_content", 80);
        println!("{changes:?}: {first} → {last}");
        assert!(last < part * first, "{changes:?}: {first} → {last}");
    }
}

#[test]
fn cycle_gan_learns_one_batch_by_heart() {
    for precision in ["train.precision=f32", "train.precision=bf16"] {
        let (first, last) = learn(built(&smoke("cycle-gan", &[precision])).as_mut(), "loss_cycle", 80);
        println!("{precision}: {first} → {last}");
        assert!(last < 0.5 * first, "{precision}: {first} → {last}");
    }
}

#[test]
fn a_resumed_run_ends_as_if_it_had_never_stopped() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 4);
    // Dropout, penalty and pool draw random numbers, and the pool is full before the run stops.
    for method in ["deblur-gan", "cycle-gan", "separate-gan"] {
        let content = if method == "separate-gan" { "gan.content=pixel" } else { "gan.content=features" };
        let changes = [
            common::PAIRS_ONLY,
            content,
            "gan.dropout=0.5",
            "gan.pool=5",
            "train.steps=8",
            "train.validate_every=4",
            "train.log_every=4",
            "train.ema=0.9",
        ];
        let config = smoke(method, &changes);
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str| RunFolder::new(&folder.path().join(name));
        let (whole, parts) = (run("whole"), run("parts"));
        assert!(train::start(&config, data.path(), &whole, Device::Cpu, &|_| false).unwrap().finished);
        assert!(!train::start(&config, data.path(), &parts, Device::Cpu, &|step| step == 3).unwrap().finished);
        assert!(train::resume(data.path(), &parts, Device::Cpu, &|_| false).unwrap().finished);
        let tensors = |run: &RunFolder| {
            let mut tensors = Tensor::read_safetensors(run.last()).unwrap();
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            tensors
        };
        let (whole, parts) = (tensors(&whole), tensors(&parts));
        assert!(whole.len() > 80, "{}", whole.len());
        assert_eq!(whole.len(), parts.len());
        for ((name, a), (other, b)) in whole.iter().zip(&parts) {
            assert!(name == other && a.equal(b), "{method}: {name} differs");
        }
    }
}

#[test]
fn mdr_computes_what_tch_computes() {
    for method in ["deblur-gan", "cycle-gan"] {
        let config = smoke(method, &["gan.content=pixel", "gan.blocks=3", "train.ema=0.9"]);
        let method = built(&config);
        let bytes = export::encode(&config, method.as_ref(), 0, None);
        let report = parity::compare(method.as_ref(), 0, &bytes).unwrap();
        assert!(report.passed, "{report:?}");
        // Instance normalisation depends on the whole image: no tiles.
        assert!(mdr::Model::from_bytes("exported", &bytes).unwrap().facts().halo.is_none());
    }
}

/// Noise whose variance is the intensity's, with a tail towards bright, as that of few photons.
#[test]
fn separate_gan_learns_strength_and_skewness_of_noise() {
    const PHOTONS: f64 = 20.0;
    let changes = ["gan.content=pixel", "gan.discriminator.features=8", "gan.lambda_statistics=1.0", "train.ema=0.98"];
    let mut method = built(&smoke("separate-gan", &changes));
    let Batch { target, weight, .. } = batch();
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let intensities = Vec::<f32>::try_from((&target * PHOTONS + 1e-6).reshape([-1])).unwrap();
    let steps = 1200;
    for step in 0..steps {
        let photons = intensities.iter().map(|&mean| Poisson::new(mean).unwrap().sample(&mut rng));
        let input = Tensor::from_slice(&photons.collect::<Vec<_>>()).reshape(target.size()) / PHOTONS;
        let batch = Batch { task: 0, input, target: target.shallow_clone(), weight: weight.shallow_clone() };
        method.step(&batch, 1e-3 * (1.0 - f64::from(step) / f64::from(steps)));
    }
    // Many degraded images of one clean image: variance and skewness at each pixel.
    let made: Vec<Tensor> = (0..64).map(|_| method.restore(&with_noise(&target, &mut rng), 0)).collect();
    let made = Tensor::stack(&made, 0);
    let taken = &made - made.mean_dim([0].as_slice(), true, Kind::Float);
    let moment = |power: i64, pixels: &Tensor| {
        let values = taken.pow_tensor_scalar(power).mean_dim([0].as_slice(), false, Kind::Float);
        values.masked_select(pixels).mean(Kind::Float).double_value(&[])
    };
    for (what, pixels) in [("dim", target.lt(0.3)), ("bright", target.gt(0.7))] {
        let expected = PHOTONS * target.masked_select(&pixels).mean(Kind::Float).double_value(&[]);
        let (variance, third) = (moment(2, &pixels), moment(3, &pixels));
        let (counts, skewness) = (variance * PHOTONS * PHOTONS, third / variance.powf(1.5));
        println!("{what}: {expected} photons, variance {counts}, skewness {skewness}");
        assert!((counts / expected).ln().abs() < 0.5, "{what}: variance {counts}, expected {expected}");
        let expected = expected.powf(-0.5);
        assert!((skewness - expected).abs() < 0.25, "{what}: skewness {skewness}, expected {expected}");
    }
}

#[test]
fn a_restorer_learns_from_synthetic_pairs() {
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 4);
    let synthesiser = RunFolder::new(&data.path().join("gan"));
    let config = smoke("separate-gan", &["gan.content=pixel", "train.steps=4"]);
    assert!(train::start(&config, data.path(), &synthesiser, Device::Cpu, &|_| false).unwrap().finished);
    let denoise = data.path().join("denoise");
    let request = |pairs: PathBuf, out: &str| Request {
        run: synthesiser.root().to_owned(),
        task: mdr::Task::Denoise,
        clean: denoise.join("clean"),
        real: Some(denoise.join("low")),
        pairs: Some(pairs),
        out: data.path().join(out),
        samples: 2,
        seed: 1,
    };
    let sheet = synthesize(&request(denoise.clone(), "synthetic"), Device::Cpu).unwrap();
    let error = synthesize(&request(denoise.clone(), "synthetic"), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert!(std::fs::read_to_string(&sheet).unwrap().contains("two-sample test"));
    for side in ["low", "high"] {
        let made = std::fs::read_dir(sheet.with_file_name(side)).unwrap().count();
        assert_eq!(made, 8, "2 of each of 4 clean images in {side}");
    }
    let statistics = std::fs::read(sheet.with_file_name("statistics.json")).unwrap();
    let statistics: serde_json::Value = serde_json::from_slice(&statistics).unwrap();
    assert!(statistics["p_value"].as_f64().is_some_and(|p| p > 0.0 && p <= 1.0), "{statistics}");
    // The planes are smaller than what is transformed.
    assert!(statistics["transfer"].is_null());
    std::fs::create_dir_all(data.path().join("strangers/high")).unwrap();
    std::fs::create_dir_all(data.path().join("strangers/low")).unwrap();
    for (from, to) in [("low/0.tif", "low/0.tif"), ("high/1.tif", "high/1.tif")] {
        std::fs::copy(denoise.join(from), data.path().join("strangers").join(to)).unwrap();
    }
    let error = synthesize(&request(data.path().join("strangers"), "more"), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("no file of low has a partner"), "{error}");
    let parse = |changes: &[&str]| {
        let run = format!("augment.run={}", synthesiser.root().display());
        let small = ["net.features=4", "net.depth=1", "patches.size=32", "train.steps=4", "train.validate_every=2"];
        let changes: Vec<String> =
            small.iter().chain([&run.as_str()]).chain(changes).map(|change| (*change).to_owned()).collect();
        Config::parse(include_str!("../configs/cgan.toml"), &changes)
    };
    let run = RunFolder::new(&data.path().join("restorer"));
    // No real pair: it has nothing but the synthetic ones.
    let config = parse(&["augment.samples=2", "data.pairs=0"]).unwrap();
    assert!(train::start(&config, data.path(), &run, Device::Cpu, &|_| false).unwrap().finished);
    assert!(run.best().exists());
    for wrong in ["augment.samples=0", "augment.fraction=1.0", "simulate.fraction=0.5"] {
        let error = parse(&[wrong]).unwrap_err().to_string();
        assert!(error.contains(wrong.split('=').next().unwrap()), "{error}");
    }
    // A restorer makes no degraded images.
    let config = parse(&[&format!("augment.run={}", run.root().display())]).unwrap();
    let error =
        train::start(&config, data.path(), &RunFolder::new(&data.path().join("other")), Device::Cpu, &|_| false);
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("expected cin-gan or separate-gan"), "{error}");
}

#[test]
fn vgg16_is_asked_for() {
    let parse = |changes: &[&str]| {
        let changes: Vec<String> = SMALL.iter().chain(changes).map(|change| (*change).to_owned()).collect();
        Config::parse(include_str!("../configs/smoke.toml"), &changes)
    };
    let error = parse(&["method=deblur-gan"]).unwrap_err().to_string();
    assert!(error.contains("--vgg16") && error.contains("torchvision.models.vgg16"), "{error}");

    // A file that is not there is noticed before anything is written.
    let data = tempfile::tempdir().unwrap();
    common::write_data(data.path(), 2);
    let config = parse(&["method=deblur-gan", "gan.vgg16=missing.safetensors"]).unwrap();
    let run = RunFolder::new(&data.path().join("run"));
    let error = train::start(&config, data.path(), &run, Device::Cpu, &|_| false).unwrap_err();
    assert!(format!("{error:#}").contains("missing.safetensors"), "{error:#}");
    assert!(!run.root().exists());

    let error = parse(&["method=separate-gan", "gan.content=features"]).unwrap_err().to_string();
    assert!(error.contains("\"pixel\" or \"vgg16\""), "{error}");
    let error = parse(&["method=cycle-gan", "gan.discriminator.layers=4"]).unwrap_err().to_string();
    assert!(error.contains("patches.size = 32: expected at least 64"), "{error}");
}
