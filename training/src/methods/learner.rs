//! One network with what trains it: its variables, its optimiser, and, where it is asked for, the moving average of its
//! weights that is validated and exported. Every player of every method is one of these.

use super::State;
use crate::adam::Adam;
use tch::{Device, Kind, Tensor, nn};

/// A network in training.
#[derive(Debug)]
pub struct Learner<N> {
    weights: nn::VarStore,
    net: N,
    /// Moving average of the weights; none without one.
    averaged: Option<(nn::VarStore, N)>,
    /// Part of the base's weights that the average keeps, and those weights.
    kept: Option<(f64, State)>,
    adam: Adam,
    decay: f64,
}

impl<N> Learner<N> {
    /// Builds the network with fresh weights, twice where `ema`, the decay of the average, is above 0. `beta_1` is
    /// Adam's first decay: 0.9 commonly, 0.5 in GANs.
    pub fn new(device: Device, ema: f64, beta_1: f64, mut build: impl FnMut(&nn::Path) -> N) -> Self {
        let mut fresh = || {
            let weights = nn::VarStore::new(device);
            let net = build(&weights.root());
            (weights, net)
        };
        let (weights, net) = fresh();
        let averaged = (ema > 0.0).then(|| {
            let (mut averaged, net) = fresh();
            averaged.freeze();
            (averaged, net)
        });
        let adam = Adam::new(&weights, beta_1);
        Self { weights, net, averaged, kept: None, adam, decay: ema }
    }

    /// Lets the average be one of the learnt weights and, to this part, of those that [`Learner::begin_with`] gives: what
    /// lies between two networks, of which one was finetuned from the other, often restores better than either, on images
    /// like the new ones and on others (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    pub fn keeping(mut self, part: f64) -> Self {
        let variables = self.averaged.iter().flat_map(|(averaged, _)| averaged.variables());
        let base: State = variables.map(|(name, tensor)| (name, tensor.detach().copy())).collect();
        self.kept = (part > 0.0 && !base.is_empty()).then_some((part, base));
        self
    }

    /// Steps taken.
    pub fn steps(&self) -> i64 {
        self.adam.steps()
    }

    /// The network that learns.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// The network that counts: with averaged weights, where there are any.
    pub fn result(&self) -> &N {
        self.averaged.as_ref().map_or(&self.net, |(_, net)| net)
    }

    /// Lets gradients flow through the network without reaching its weights, while another one learns.
    pub fn freeze(&mut self) {
        self.weights.freeze();
    }

    /// Ends [`Learner::freeze`].
    pub fn unfreeze(&mut self) {
        self.weights.unfreeze();
    }

    /// Moves the weights against their gradients, which are then cleared, and the average after them.
    pub fn step(&mut self, learning_rate: f64) {
        self.adam.step(learning_rate);
        let Some((averaged, _)) = &self.averaged else { return };
        let current = self.weights.variables();
        // The average follows the weights closely at first, else it would remember the initial ones for long.
        let steps = self.adam.steps() as f64;
        let decay = self.decay.min((1.0 + steps) / (10.0 + steps));
        tch::no_grad(|| {
            for (name, mut average) in averaged.variables() {
                let current = &current[&name];
                let followed = match &self.kept {
                    Some((part, base)) => current.lerp(&base[&name], *part),
                    None => current.shallow_clone(),
                };
                let _ = average.lerp_(&followed, 1.0 - decay);
            }
        });
    }

    /// Takes over weights from elsewhere, by variable name, also as the average's beginning.
    ///
    /// # Errors
    /// Naming a weight that is missing or of another shape.
    pub fn begin_with(&mut self, weights: &State) -> anyhow::Result<()> {
        let stores = [Some(&self.weights), self.averaged.as_ref().map(|(averaged, _)| averaged)];
        let base =
            self.kept.iter().flat_map(|(_, base)| base.iter().map(|(name, t)| (name.clone(), t.shallow_clone())));
        for (name, mut variable) in stores.into_iter().flatten().flat_map(nn::VarStore::variables).chain(base) {
            let given = weights.get(&name);
            let given = given.filter(|given| given.size() == variable.size()).ok_or_else(|| {
                anyhow::anyhow!(
                    "{name}: the network needs shape {:?}, the file has {:?}",
                    variable.size(),
                    given.map(Tensor::size)
                )
            })?;
            tch::no_grad(|| variable.copy_(&given.to_kind(Kind::Float)));
        }
        Ok(())
    }

    /// Adds all tensors, named `NAME.net.…`, `NAME.averaged.…`, `NAME.kept.…` and `NAME.adam.…`; they share memory with the learner.
    pub fn add_state(&self, name: &str, state: &mut State) {
        let stores = [("net", Some(&self.weights)), ("averaged", self.averaged.as_ref().map(|(weights, _)| weights))];
        for (part, weights) in stores {
            let variables = weights.into_iter().flat_map(nn::VarStore::variables);
            state.extend(variables.map(|(variable, tensor)| (format!("{name}.{part}.{variable}"), tensor)));
        }
        let kept = self.kept.iter().flat_map(|(_, base)| base);
        state.extend(kept.map(|(variable, tensor)| (format!("{name}.kept.{variable}"), tensor.shallow_clone())));
        state.extend(self.adam.state().into_iter().map(|(part, tensor)| (format!("{name}.adam.{part}"), tensor)));
    }
}
