//! Training methods behind one interface: the loop never asks which one runs. A new method is its file and a line in
//! [`MethodKind`].

pub mod care;
pub mod cgan;
pub mod learner;

use crate::config::{Config, Precision};
use crate::nets::Net;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// One step's training material on the device, all f32 and N, C, Y, X.
#[derive(Debug)]
pub struct Batch {
    /// Degraded patches, normalised.
    pub input: Tensor,
    /// What they should become.
    pub target: Tensor,
    /// Weight of each patch in the loss: N, 1, 1, 1.
    pub weight: Tensor,
}

/// Named scalars of one step, left on the device: reading them every step would stall CUDA.
pub type Losses = Vec<(&'static str, Tensor)>;

/// Named tensors that make up all of a method's state: weights, moments, averages.
pub type State = BTreeMap<String, Tensor>;

/// A training method.
pub trait Method {
    /// Trains on one batch at this learning rate. Losses are from before the step.
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses;

    /// The network that restores, with the weights that count: the averaged ones, where there are any.
    fn generator(&self) -> &dyn Net;

    /// Everything a checkpoint needs. The tensors share memory with the method.
    fn state(&self) -> State;

    /// Restores normalised images (f32; N, C, Y, X) in f32.
    fn restore(&self, input: &Tensor) -> Tensor {
        tch::no_grad(|| self.generator().forward(input, Kind::Float))
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
}

impl MethodKind {
    /// Builds the method with fresh weights.
    pub fn build(self, config: &Config, device: Device) -> Box<dyn Method> {
        match self {
            Self::Care => Box::new(care::Care::new(config, device)),
            Self::Cgan => Box::new(cgan::Cgan::new(config, device)),
        }
    }

    /// As published, for people.
    pub fn published_name(self) -> &'static str {
        match self {
            Self::Care => "CARE",
            Self::Cgan => "cGAN",
        }
    }
}

/// The kind that convolutions train in.
pub fn training_kind(precision: Precision, device: Device) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Auto if device.is_cuda() || cpu_has_bf16() => Kind::BFloat16,
        Precision::Auto => Kind::Float,
    }
}

/// Whether the processor multiplies bf16 in hardware. Read from Linux's list of flags; elsewhere the answer is no.
fn cpu_has_bf16() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "amx_bf16" || flag == "avx512_bf16")
}
