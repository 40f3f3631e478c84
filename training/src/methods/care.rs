//! CARE (Weigert et al., Nature Methods 2018): a residual U-Net trained on pairs with the mean absolute error and Adam.
//! Deviations from CSBDeep: the learning rate follows a cosine over a fixed number of steps instead of being halved on
//! plateaus; the reference may be matched in gain and offset to its input (`data.match_intensity`); the weights may be
//! averaged (`train.ema`).

use super::{Batch, Losses, Method, State, training_kind};
use crate::adam::Adam;
use crate::config::Config;
use crate::losses;
use crate::nets::{Net, unet::UNet};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind, nn};

/// CARE.
#[derive(Debug)]
pub struct Care {
    weights: nn::VarStore,
    net: UNet,
    /// Moving average of the weights; stays empty without one.
    averaged: Option<(nn::VarStore, UNet)>,
    adam: Adam,
    decay: f64,
    kind: Kind,
}

impl Care {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let build = || {
            let weights = nn::VarStore::new(device);
            let net = UNet::new(&weights.root(), &config.net, &mut Pcg64Mcg::seed_from_u64(config.seed));
            (weights, net)
        };
        let (weights, net) = build();
        let averaged = (config.train.ema > 0.0).then(|| {
            let (mut weights, net) = build();
            weights.freeze();
            (weights, net)
        });
        let adam = Adam::new(&weights);
        let kind = training_kind(config.train.precision, device);
        Self { weights, net, averaged, adam, decay: config.train.ema, kind }
    }
}

impl Method for Care {
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let restored = self.net.forward(&batch.input, self.kind);
        let loss = losses::l1(&restored, &batch.target, &batch.weight);
        loss.backward();
        self.adam.step(learning_rate);
        if let Some((averaged, _)) = &self.averaged {
            let current = self.weights.variables();
            // The average follows the weights closely at first, else it would remember the initial ones for long.
            let steps = self.adam.steps() as f64;
            let decay = self.decay.min((1.0 + steps) / (10.0 + steps));
            tch::no_grad(|| {
                for (name, mut average) in averaged.variables() {
                    let _ = average.lerp_(&current[&name], 1.0 - decay);
                }
            });
        }
        vec![("loss", loss.detach())]
    }

    fn generator(&self) -> &dyn Net {
        self.averaged.as_ref().map_or(&self.net, |(_, net)| net)
    }

    fn state(&self) -> State {
        let named = |prefix: &'static str, weights: &nn::VarStore| {
            weights.variables().into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
        };
        let mut state: State = named("net", &self.weights).collect();
        if let Some((averaged, _)) = &self.averaged {
            state.extend(named("averaged", averaged));
        }
        state.extend(self.adam.state().into_iter().map(|(name, tensor)| (format!("adam.{name}"), tensor)));
        state
    }
}
