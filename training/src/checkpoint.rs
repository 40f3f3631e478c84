//! A checkpoint: all of a method's tensors, the step, the best validation so far, and what the next row of the log has
//! gathered, as one safetensors file. There is no random state to save: batches are a function of the seed and their
//! number. Written under another name first, so that an interrupted save leaves the previous checkpoint whole.

use crate::methods::{Method, State};
use anyhow::{Context, Result};
use std::path::Path;
use tch::{Kind, Tensor};

const STEP: &str = "run.step";
const BEST: &str = "run.best";
const BEST_STEP: &str = "run.best_step";
const LOG: &str = "log.";

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Highest validation quality so far (of restorations, affine PSNR in dB); minus infinity before the first.
    pub best: f64,
    /// The step it was reached at.
    pub best_step: u64,
}

impl Position {
    /// Before the first step.
    pub const START: Self = Self { step: 0, best: f64::NEG_INFINITY, best_step: 0 };
}

/// Writes a checkpoint; `log` is what the next row of the log has gathered, which may be nothing.
///
/// # Errors
/// Where the file cannot be written.
pub fn save(path: &Path, method: &dyn Method, position: Position, log: State) -> Result<()> {
    let mut state = method.state();
    state.extend(log.into_iter().map(|(name, tensor)| (format!("{LOG}{name}"), tensor)));
    state.insert(STEP.into(), Tensor::from_slice(&[position.step as i64]));
    state.insert(BEST_STEP.into(), Tensor::from_slice(&[position.best_step as i64]));
    state.insert(BEST.into(), Tensor::from_slice(&[position.best]));
    let tensors: Vec<(String, Tensor)> = state
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach().to_device(tch::Device::Cpu).contiguous()))
        .collect();
    let partial = path.with_extension("partial");
    Tensor::write_safetensors(&tensors, &partial).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("renaming {}", partial.display()))
}

/// Reads a checkpoint into the method; gives what [`save`] was given besides.
///
/// # Errors
/// Where the file is missing, damaged, or of another network.
pub fn load(path: &Path, method: &mut dyn Method) -> Result<(Position, State)> {
    let context = || format!("checkpoint {}", path.display());
    let state: State = Tensor::read_safetensors(path).with_context(context)?.into_iter().collect();
    method.load(&state).with_context(context)?;
    let scalar = |name: &str, kind| {
        let tensor = state.get(name).filter(|tensor| tensor.numel() == 1 && tensor.kind() == kind);
        tensor.with_context(|| format!("{}: lacks {name}", context()))
    };
    let step = scalar(STEP, Kind::Int64)?.int64_value(&[0]);
    let best_step = scalar(BEST_STEP, Kind::Int64)?.int64_value(&[0]).max(0) as u64;
    let best = scalar(BEST, Kind::Double)?.double_value(&[0]);
    let log = state.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(LOG)?.to_owned(), tensor)));
    Ok((Position { step: step.max(0) as u64, best, best_step }, log.collect()))
}
