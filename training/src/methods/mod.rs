//! Training methods behind one interface: the loop never asks which one runs. A new method is its file and a line in
//! [`MethodKind`].

pub mod care;
pub mod cgan;
pub mod cin_gan;
pub mod cycle_gan;
pub mod deblur_gan;
pub mod learner;

use crate::config::{Config, Precision};
use crate::nets::Net;
use anyhow::{Context, Result};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// One step's training material on the device, all f32 and N, C, Y, X, all of one task.
#[derive(Debug)]
pub struct Batch {
    /// Index among the config's tasks.
    pub task: usize,
    /// Degraded patches, normalised.
    pub input: Tensor,
    /// What they should become; for an unpaired method, clean patches, on the same scale.
    pub target: Tensor,
    /// Weight of each patch in the loss: N, 1, 1, 1; for an unpaired method, 0 where the two do not belong together.
    pub weight: Tensor,
}

/// Named scalars of one step, left on the device: reading them every step would stall CUDA.
pub type Losses = Vec<(&'static str, Tensor)>;

/// Named tensors that make up all of a method's state: weights, moments, averages.
pub type State = BTreeMap<String, Tensor>;

/// A training method.
pub trait Method {
    /// Loads what only training needs; called once, before the first step.
    ///
    /// # Errors
    /// Where a file that the config names cannot be used.
    fn prepare(&mut self, _config: &Config) -> Result<()> {
        Ok(())
    }

    /// Takes over the weights of a trained generator, by variable name.
    ///
    /// # Errors
    /// Where they are not those of this method's generator, or it has no use for them.
    fn begin_with(&mut self, _weights: &State) -> Result<()> {
        anyhow::bail!("only care and cgan can begin with the weights of another model")
    }

    /// Trains on one batch at this learning rate. Losses are from before the step.
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses;

    /// The network that restores, with the weights that count: the averaged ones, where there are any.
    fn generator(&self) -> &dyn Net;

    /// Everything a checkpoint needs. The tensors share memory with the method.
    fn state(&self) -> State;

    /// Restores normalised images (f32; N, C, Y, X) of a task in f32.
    fn restore(&self, input: &Tensor, task: usize) -> Tensor {
        tch::no_grad(|| self.generator().forward(input, task, Kind::Float))
    }

    /// Takes over what [`Method::state`] gave.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape, and names it.
    fn load(&mut self, saved: &State) -> Result<()> {
        for (name, mut tensor) in self.state() {
            let saved = saved.get(&name).with_context(|| format!("the checkpoint lacks {name}"))?;
            anyhow::ensure!(
                saved.size() == tensor.size(),
                "{name} in the checkpoint has shape {:?}, the config asks for {:?}",
                saved.size(),
                tensor.size()
            );
            tch::no_grad(|| tensor.copy_(saved));
        }
        Ok(())
    }
}

/// Names of the methods, as in a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodKind {
    /// CARE: a U-Net trained on pairs (Weigert et al. 2018).
    Care,
    /// cGAN: a U-Net trained on pairs against a conditional discriminator (Isola et al. 2017).
    Cgan,
    /// CIN-GAN: synthesises the defects of several tasks, needs no pairs (Razdaibiedina et al. 2019).
    CinGan,
    /// The same for one task alone.
    SeparateGan,
    /// DeblurGAN: a ResNet trained on pairs against a critic (Kupyn et al. 2018).
    DeblurGan,
    /// CycleGAN: two generators, two discriminators, no pairs (Zhu et al. 2017).
    CycleGan,
}

impl MethodKind {
    /// Builds the method with fresh weights.
    pub fn build(self, config: &Config, device: Device) -> Box<dyn Method> {
        match self {
            Self::Care => Box::new(care::Care::new(config, device)),
            Self::Cgan => Box::new(cgan::Cgan::new(config, device)),
            Self::CinGan | Self::SeparateGan => Box::new(cin_gan::CinGan::new(config, device)),
            Self::DeblurGan => Box::new(deblur_gan::DeblurGan::new(config, device)),
            Self::CycleGan => Box::new(cycle_gan::CycleGan::new(config, device)),
        }
    }

    /// Whether it learns from degraded and clean images that do not belong together.
    pub fn unpaired(self) -> bool {
        match self {
            Self::Care | Self::Cgan | Self::DeblurGan => false,
            Self::CycleGan | Self::CinGan | Self::SeparateGan => true,
        }
    }

    /// Whether it makes degraded images out of clean ones instead of restoring.
    pub fn synthesises(self) -> bool {
        matches!(self, Self::CinGan | Self::SeparateGan)
    }

    /// As published, for people.
    pub fn published_name(self) -> &'static str {
        match self {
            Self::Care => "CARE",
            Self::Cgan => "cGAN",
            Self::CinGan => "CIN-GAN",
            Self::SeparateGan => "separate GAN",
            Self::DeblurGan => "DeblurGAN",
            Self::CycleGan => "CycleGAN",
        }
    }
}

/// Random numbers of a step: a function of the seed and the number of steps before it, so that there is no random state
/// to be saved.
fn step_rng(seed: u64, step: i64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_sub(1 + step as u64))
}

/// The kind that convolutions train in.
pub fn training_kind(precision: Precision, device: Device) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Auto if device.is_cuda() || is_faster_in_bf16(&cpu()) => Kind::BFloat16,
        Precision::Auto => Kind::Float,
    }
}

/// What Linux says of the processor; elsewhere nothing.
fn cpu() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

/// Whether a processor of this `/proc/cpuinfo` trains faster in bf16: Intel's with AMX do, AMD's with AVX-512 BF16 too,
/// but not Intel's with AVX-512 BF16 alone, as virtual machines show them.
fn is_faster_in_bf16(cpuinfo: &str) -> bool {
    let has = |word: &str| cpuinfo.split_ascii_whitespace().any(|other| other == word);
    has("amx_bf16") || has("avx512_bf16") && has("AuthenticAMD")
}

#[test]
fn bf16_is_for_processors_that_are_faster_in_it() {
    let cpuinfo = |vendor: &str, flags: &str| format!("vendor_id\t: {vendor}\nflags\t\t: fma {flags} avx2\n");
    assert!(is_faster_in_bf16(&cpuinfo("GenuineIntel", "avx512_bf16 amx_bf16")));
    assert!(is_faster_in_bf16(&cpuinfo("AuthenticAMD", "avx512_bf16")));
    assert!(!is_faster_in_bf16(&cpuinfo("GenuineIntel", "avx512_bf16")));
    assert!(!is_faster_in_bf16(&cpuinfo("AuthenticAMD", "avx512f")));
    assert!(!is_faster_in_bf16(""));
}

/// For the tests of methods.
#[cfg(test)]
mod testing {
    use super::{Batch, State};
    use crate::config::Config;
    use std::collections::BTreeSet;
    use tch::{Device, Kind, Tensor};

    /// The smoke config with this method, smaller still.
    pub fn smoke(method: &str, changes: &[&str]) -> Config {
        tch::set_num_threads(1);
        let method = format!("method={method}");
        let small = [&method, "gan.blocks=1", "gan.discriminator.layers=2", "gan.discriminator.features=4"];
        let small = small.iter().chain(&["simulate.fraction=0.0"]);
        let changes: Vec<String> = small.chain(changes).map(|change| (*change).to_owned()).collect();
        Config::parse(include_str!("../../configs/smoke.toml"), &changes).expect("the shipped config is right")
    }

    /// Two patches with waves, degraded and clean.
    pub fn batch(side: i64) -> Batch {
        let wave = Tensor::arange(2 * side * side, (Kind::Float, Device::Cpu)).reshape([2, 1, side, side]);
        let [input, target] = [0.7, 0.05].map(|pitch| (&wave * pitch).sin());
        Batch { task: 0, input, target, weight: Tensor::ones([2, 1, 1, 1], (Kind::Float, Device::Cpu)) }
    }

    /// Remembers a state; what it gives tells which players (first parts of names) a later state shows changed, or with
    /// a gradient that would be added to their next one.
    pub fn changed(state: &State) -> impl Fn(&State) -> Vec<String> + use<> {
        let before: State = state.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect();
        move |after| {
            let changed = after.iter().filter(|(name, tensor)| {
                let gradient = tensor.grad();
                let left = gradient.defined() && gradient.abs().max().double_value(&[]) > 0.0;
                left || !tensor.detach().equal(&before[*name])
            });
            let players: BTreeSet<&str> = changed.map(|(name, _)| name.split('.').next().unwrap_or(name)).collect();
            players.into_iter().map(str::to_owned).collect()
        }
    }
}
