//! What the GANs are made of agrees with PyTorch: discriminator, generator, VGG16, losses and the gradient penalty, twice
//! differentiated. `data/gan.npz` and `data/vgg16.safetensors` are made by `data/make_gan.py`.

use mdr_train::losses::{self, GanLoss};
use mdr_train::nets::Net;
use mdr_train::nets::blocks::Norm;
use mdr_train::nets::patch_discriminator::{self, PatchDiscriminator};
use mdr_train::nets::resnet_generator::{self, ResnetGenerator};
use mdr_train::nets::vgg16::{RECIPE, Vgg16};
use mdr_train::onnx::{Graph, INPUT};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor, nn};

type Stored = BTreeMap<String, Tensor>;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn stored() -> Stored {
    tch::set_num_threads(1);
    Tensor::read_npz(data("gan.npz")).unwrap().into_iter().collect()
}

fn rng() -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(3)
}

/// Not torch's random numbers, which the tests running beside each other share.
fn normal(shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let normal = Normal::new(0.0, 1.0).unwrap();
    Tensor::from_slice(&normal.sample_iter(rng()).take(count).collect::<Vec<f32>>()).reshape(shape)
}

/// Takes over the weights under this prefix; as many as there are, so that all names agree.
fn fill(weights: &nn::VarStore, stored: &Stored, prefix: &str) {
    let saved = stored.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(weights.len(), saved);
    for (name, mut variable) in weights.variables() {
        tch::no_grad(|| variable.copy_(&stored[&format!("{prefix}.{name}")]));
    }
}

/// Relative to the largest value.
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]);
    let difference = (found - expected).abs().max().double_value(&[]);
    assert!(scale > 0.0 && difference <= tolerance * scale, "{difference} of {scale}");
}

fn critic(stored: &Stored) -> (nn::VarStore, PatchDiscriminator) {
    let settings = patch_discriminator::Settings { layers: 2, features: 3, norm: Norm::Instance };
    let weights = nn::VarStore::new(Device::Cpu);
    let critic = PatchDiscriminator::new(&weights.root(), 2, &settings, &mut rng());
    fill(&weights, stored, "critic");
    (weights, critic)
}

#[test]
fn discriminator_and_losses_agree_with_pytorch() {
    let stored = stored();
    let (_, critic) = critic(&stored);
    let real = critic.forward(&stored["real"], Kind::Float);
    let fake = critic.forward(&stored["fake"], Kind::Float);
    assert_close(&real.scores, &stored["d_real"], 1e-5);
    assert_close(&fake.scores, &stored["d_fake"], 1e-5);
    assert_eq!(real.features.len(), 3);
    assert_close(&real.features[2], &stored["feature_2"], 1e-5);
    let matching = losses::feature_matching(&real.features, &fake.features);
    assert_close(&matching, &stored["feature_matching"], 1e-5);
    for (loss, name) in [(GanLoss::Lsgan, "lsgan"), (GanLoss::WganGp, "wgan-gp")] {
        let found = [loss.real(&real.scores), loss.fake(&fake.scores), loss.generator(&fake.scores)];
        assert_close(&Tensor::stack(&found, 0), &stored[name], 1e-5);
    }
}

#[test]
fn gradient_penalty_and_its_gradient_agree_with_pytorch() {
    let stored = stored();
    let (weights, critic) = critic(&stored);
    let score = |image: &Tensor| critic.forward(image, Kind::Float).scores;
    let penalty = losses::gradient_penalty(score, &stored["real"], &stored["fake"], &stored["mix"]);
    assert_close(&penalty, &stored["penalty"], 1e-4);
    penalty.backward();
    assert_close(&weights.variables()["model.2.weight"].grad(), &stored["penalty_by_weight"], 1e-4);
}

#[test]
fn no_gradient_reaches_what_is_only_compared_with() {
    let tensor = || normal(&[1, 1, 4, 4]).set_requires_grad(true);
    for loss in [losses::feature_matching, losses::content] {
        let (real, fake) = (tensor(), tensor());
        loss(&[&real * 2], &[fake.shallow_clone()]).backward();
        assert!(fake.grad().defined() && !real.grad().defined());
    }
}

fn generator(settings: &resnet_generator::Settings) -> (nn::VarStore, ResnetGenerator) {
    let weights = nn::VarStore::new(Device::Cpu);
    let generator = ResnetGenerator::new(&weights.root(), settings, &mut rng());
    (weights, generator)
}

const SMALL: resnet_generator::Settings = resnet_generator::Settings {
    inputs: 1,
    features: 2,
    blocks: 2,
    norm: Norm::Instance,
    residual: true,
    tanh: true,
    dropout: 0.0,
};

#[test]
fn generator_agrees_with_pytorch() {
    let stored = stored();
    let (weights, generator) = generator(&SMALL);
    fill(&weights, &stored, "generator");
    assert_close(&generator.forward(&stored["image"], 0, Kind::Float), &stored["generated"], 1e-5);
}

#[test]
fn dropout_acts_in_training_alone_and_repeats_itself() {
    let stored = stored();
    let (_, generator) = generator(&resnet_generator::Settings { dropout: 0.5, ..SMALL });
    let run = |seed: u64| generator.run(&stored["image"], Kind::Float, Some(&mut Pcg64Mcg::seed_from_u64(seed)));
    assert!(run(1).equal(&run(1)));
    assert!(!run(1).equal(&run(2)));
    assert!(!run(1).equal(&generator.forward(&stored["image"], 0, Kind::Float)));
}

/// With instance normalisation the model runs in one piece, without it in tiles; either way as in tch.
#[test]
fn exported_generator_runs_in_mdr_as_in_tch() {
    tch::set_num_threads(1);
    for (norm, residual, tanh) in
        [(Norm::Instance, true, true), (Norm::Instance, false, false), (Norm::None, true, false)]
    {
        let settings = resnet_generator::Settings { features: 4, norm, residual, tanh, ..SMALL };
        let (weights, generator) = generator(&settings);
        // Larger weights than at the start, without which little remains of the image.
        for mut variable in weights.trainable_variables() {
            tch::no_grad(|| variable.copy_(&(normal(&variable.size()) * 0.2)));
        }
        let mut graph = Graph::default();
        let result = generator.export(&mut graph, 0, INPUT);
        let bytes = graph.finish(&result, 1, &BTreeMap::new());
        let model = mdr::Model::from_bytes("exported", &bytes).unwrap();
        assert_eq!(model.facts().halo.is_none(), norm == Norm::Instance);
        for (y, x) in [(36, 52), (64, 40)] {
            let image = normal(&[1, 1, y, x]);
            let samples = Vec::<f32>::try_from(image.reshape([-1])).unwrap();
            let found = model.network().run(&samples, [1, y as usize, x as usize]).unwrap();
            let expected = tch::no_grad(|| generator.forward(&image, 0, Kind::Float));
            assert_close(&Tensor::from_slice(&found).reshape([1, 1, y, x]), &expected, 1e-4);
        }
    }
}

#[test]
fn vgg16_agrees_with_pytorch() {
    let stored = stored();
    let names = ["relu1_2", "relu3_3", "relu5_3"];
    let layers = names.map(String::from);
    let vgg = Vgg16::load(&data("vgg16.safetensors"), &layers, Device::Cpu, Kind::Float).unwrap();
    let image = stored["grey"].copy().set_requires_grad(true);
    let features = vgg.features(&image);
    for (name, found) in names.iter().zip(&features) {
        assert_close(found, &stored[*name], 1e-5);
    }
    let other = vgg.features(&image.flip([3]));
    assert!(losses::content(&features, &features).double_value(&[]) == 0.0);
    losses::content(&other, &features).backward();
    assert!(image.grad().abs().max().double_value(&[]) > 0.0, "the gradient reaches the image");
}

#[test]
fn a_file_that_is_not_vgg16_is_refused() {
    let layers = |name: &str| [name.to_owned()];
    let load = |path: &Path, layer: &str| {
        let error = Vgg16::load(path, &layers(layer), Device::Cpu, Kind::Float).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("torchvision.models.vgg16"), "how to make the file: {error}");
        error
    };
    assert!(include_str!("../README.md").contains(RECIPE), "the README says the same");
    let error = load(&data("missing.safetensors"), "relu3_3");
    assert!(error.contains("missing.safetensors"), "{error}");
    let error = load(&data("vgg16.safetensors"), "relu3_4");
    assert!(error.contains("no layer relu3_4"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let mut tensors = Tensor::read_safetensors(data("vgg16.safetensors")).unwrap();
    tensors.retain(|(name, _)| name != "features.7.bias");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let error = load(&path, "relu3_3");
    assert!(error.contains("features.7.bias is missing"), "{error}");
    // What comes after the last layer that is wanted does not matter.
    assert!(Vgg16::load(&path, &layers("relu1_2"), Device::Cpu, Kind::Float).is_ok());

    tensors.push(("features.7.bias".into(), Tensor::zeros([7], (Kind::Float, Device::Cpu))));
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let error = load(&path, "relu3_3");
    assert!(error.contains("features.7.weight has shape [4, 4, 3, 3], expected [7, 4, 3, 3]"), "{error}");
    std::fs::write(&path, b"not a file of tensors").unwrap();
    load(&path, "relu3_3");
}
