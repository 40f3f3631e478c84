//! CycleGAN (Zhu et al., ICCV 2017) on unpaired images: G restores degraded images a, F degrades clean images b, and each
//! has a discriminator that tells its results from real images of that kind.
//! `L = lsgan(D_B(G(a))) + lsgan(D_A(F(b))) + λ·(|F(G(a)) − a| + |G(F(b)) − b|) + λ·λ_id·(|G(b) − b| + |F(a) − a|)`, with
//! λ = 10 and λ_id = 0.5; the discriminators learn from real images and from a pool of 50 earlier results, with half the
//! loss; Adam (2e-4, β₁ 0.5), learning rate constant, then linearly to 0.
//!
//! Deviations:
//! - One channel; images are on the scale of the engine's normalisation (percentiles at 0 and 1) instead of −1 to 1, and
//!   the generators end without tanh, which would cut off what lies beyond the percentiles.
//! - Batches of small patches instead of one image of 256×256; weights may be averaged (`train.ema`); the learning rate
//!   falls along a cosine.

use super::{Batch, Losses, Method, State, learner::Learner, step_rng, training_kind};
use crate::config::{Config, Gan};
use crate::losses::{self, GanLoss};
use crate::nets::Net;
use crate::nets::blocks::Norm;
use crate::nets::patch_discriminator::PatchDiscriminator;
use crate::nets::resnet_generator::{ResnetGenerator, Settings};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind, Tensor};

/// CycleGAN.
#[derive(Debug)]
pub struct CycleGan {
    /// Degraded to clean, which the paper calls G.
    restorer: Learner<ResnetGenerator>,
    /// Clean to degraded, which the paper calls F.
    degrader: Learner<ResnetGenerator>,
    clean: Judge,
    degraded: Judge,
    gan: Gan,
    seed: u64,
    kind: Kind,
}

/// A discriminator with the results it remembers.
#[derive(Debug)]
struct Judge {
    discriminator: Learner<PatchDiscriminator>,
    pool: ImagePool,
}

impl Judge {
    /// The generator's loss on its result. The discriminator must be frozen.
    fn generator_loss(&self, fake: &Tensor, kind: Kind) -> Tensor {
        GanLoss::Lsgan.generator(&self.discriminator.net().forward(fake, kind).scores)
    }

    /// One step; gives the loss.
    fn step(&mut self, real: &Tensor, fake: &Tensor, learning_rate: f64, kind: Kind, rng: &mut Pcg64Mcg) -> Tensor {
        let fake = self.pool.exchange(&fake.detach(), rng);
        let scores = |image: &Tensor| self.discriminator.net().forward(image, kind).scores;
        let loss = (GanLoss::Lsgan.real(&scores(real)) + GanLoss::Lsgan.fake(&scores(&fake))) * 0.5;
        loss.backward();
        self.discriminator.step(learning_rate);
        loss.detach()
    }
}

/// Earlier results of a generator (Shrivastava et al. 2017). Part of the checkpoint: a resumed run shows its
/// discriminators what they would have seen.
#[derive(Debug)]
struct ImagePool {
    /// Places × 1 × Y × X.
    images: Tensor,
    /// How many places are filled: a tensor, so that it is saved and loaded like the rest.
    filled: Tensor,
}

impl ImagePool {
    fn new(places: usize, side: usize, device: Device) -> Self {
        let (places, side) = (places as i64, side as i64);
        let images = Tensor::zeros([places, 1, side, side], (Kind::Float, device));
        Self { images, filled: Tensor::from_slice(&[0i64]) }
    }

    /// As many images as are given (N, 1, Y, X): while there is room, each is remembered and given back; later, every
    /// other one takes the place of an earlier one, which is given back instead.
    fn exchange(&mut self, fake: &Tensor, rng: &mut Pcg64Mcg) -> Tensor {
        let (count, places) = (fake.size()[0], self.images.size()[0]);
        let given: Vec<Tensor> = (0..count)
            .map(|number| {
                let new = fake.get(number);
                let filled = self.filled.int64_value(&[0]);
                if filled < places {
                    self.images.get(filled).copy_(&new);
                    let _ = self.filled.g_add_scalar_(1);
                    new
                } else if rng.random() {
                    let mut place = self.images.get(rng.random_range(0..places));
                    let earlier = place.copy();
                    place.copy_(&new);
                    earlier
                } else {
                    new
                }
            })
            .collect();
        Tensor::stack(&given, 0)
    }
}

impl CycleGan {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let gan = &config.gan;
        let settings = Settings {
            inputs: 1,
            features: config.net.features,
            blocks: gan.blocks,
            norm: Norm::Instance,
            residual: false,
            tanh: false,
            dropout: gan.dropout,
        };
        let mut seeds = Pcg64Mcg::seed_from_u64(config.seed);
        let mut rng = || Pcg64Mcg::seed_from_u64(seeds.random());
        let generator = |ema, rng: Pcg64Mcg| {
            let net = |path: &tch::nn::Path| ResnetGenerator::new(path, &settings, &mut rng.clone());
            Learner::new(device, ema, gan.beta_1, net)
        };
        let judge = |mut rng: Pcg64Mcg| Judge {
            discriminator: Learner::new(device, 0.0, gan.beta_1, |path: &tch::nn::Path| {
                PatchDiscriminator::new(path, 1, &gan.discriminator, &mut rng)
            }),
            pool: ImagePool::new(gan.pool, config.patches.size, device),
        };
        Self {
            restorer: generator(config.train.ema, rng()),
            degrader: generator(0.0, rng()),
            clean: judge(rng()),
            degraded: judge(rng()),
            gan: gan.clone(),
            seed: config.seed,
            kind: training_kind(config.train.precision, device),
        }
    }

    /// One step of both generators; gives, beside the losses, their results: clean, then degraded.
    fn step_generators(&mut self, batch: &Batch, learning_rate: f64, rng: &mut Pcg64Mcg) -> ([Tensor; 2], Losses) {
        let (kind, a, b) = (self.kind, &batch.input, &batch.target);
        self.clean.discriminator.freeze();
        self.degraded.discriminator.freeze();
        let mut restore = |image: &Tensor| self.restorer.net().run(image, kind, Some(&mut *rng));
        let (fake_b, identity_b) = (restore(a), restore(b));
        let mut degrade = |image: &Tensor| self.degrader.net().run(image, kind, Some(&mut *rng));
        let (fake_a, identity_a, back_a) = (degrade(b), degrade(a), degrade(&fake_b));
        let back_b = self.restorer.net().run(&fake_a, kind, Some(rng));

        let (gan_b, gan_a) = (self.clean.generator_loss(&fake_b, kind), self.degraded.generator_loss(&fake_a, kind));
        let cycle = losses::distance(&back_a, a) + losses::distance(&back_b, b);
        let identity = losses::distance(&identity_b, b) + losses::distance(&identity_a, a);
        let (lambda_cycle, lambda_identity) = (self.gan.lambda_cycle, self.gan.lambda_identity);
        (&gan_b + &gan_a + &cycle * lambda_cycle + &identity * (lambda_cycle * lambda_identity)).backward();
        self.restorer.step(learning_rate);
        self.degrader.step(learning_rate);
        self.clean.discriminator.unfreeze();
        self.degraded.discriminator.unfreeze();
        let losses = vec![
            ("loss_g_clean", gan_b.detach()),
            ("loss_g_degraded", gan_a.detach()),
            ("loss_cycle", cycle.detach()),
            ("loss_identity", identity.detach()),
        ];
        ([fake_b, fake_a], losses)
    }
}

impl Method for CycleGan {
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let mut rng = step_rng(self.seed, self.restorer.steps());
        let ([fake_b, fake_a], mut losses) = self.step_generators(batch, learning_rate, &mut rng);
        let clean = self.clean.step(&batch.target, &fake_b, learning_rate, self.kind, &mut rng);
        let degraded = self.degraded.step(&batch.input, &fake_a, learning_rate, self.kind, &mut rng);
        losses.extend([("loss_d_clean", clean), ("loss_d_degraded", degraded)]);
        losses
    }

    fn generator(&self) -> &dyn Net {
        self.restorer.result()
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.restorer.add_state("restorer", &mut state);
        self.degrader.add_state("degrader", &mut state);
        for (name, judge) in [("clean", &self.clean), ("degraded", &self.degraded)] {
            judge.discriminator.add_state(&format!("discriminator_{name}"), &mut state);
            state.insert(format!("pool_{name}.images"), judge.pool.images.shallow_clone());
            state.insert(format!("pool_{name}.filled"), judge.pool.filled.shallow_clone());
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, changed, smoke};
    use super::*;

    #[test]
    fn generators_and_discriminators_learn_apart() {
        let mut method = CycleGan::new(&smoke("cycle-gan", &[]), Device::Cpu);
        let batch = batch(32);
        let mut rng = step_rng(1, 0);

        let before = changed(&method.state());
        let ([fake_b, _], _) = method.step_generators(&batch, 1e-3, &mut rng);
        assert_eq!(before(&method.state()), ["degrader", "restorer"]);

        let before = changed(&method.state());
        let _ = method.clean.step(&batch.target, &fake_b, 1e-3, Kind::Float, &mut rng);
        assert_eq!(before(&method.state()), ["discriminator_clean", "pool_clean"]);
    }

    #[test]
    fn pool_gives_what_it_was_given() {
        let mut pool = ImagePool::new(3, 2, Device::Cpu);
        let mut rng = step_rng(1, 0);
        let numbered = |numbers: &[f32]| {
            let numbers = Tensor::from_slice(numbers);
            numbers.reshape([-1, 1, 1, 1]).expand([-1, 1, 2, 2], false).contiguous()
        };
        let numbers = |images: &Tensor| Vec::<f32>::try_from(images.amax([1, 2, 3], false)).unwrap();
        // While there is room, every image is given back, and kept.
        assert_eq!(numbers(&pool.exchange(&numbered(&[1.0, 2.0]), &mut rng)), [1.0, 2.0]);
        assert_eq!(numbers(&pool.exchange(&numbered(&[3.0]), &mut rng)), [3.0]);
        assert_eq!(numbers(&pool.images), [1.0, 2.0, 3.0]);
        // Later, an image goes in and another comes out, or it passes by: none is lost, none is doubled.
        let mut given: Vec<f32> = (1..=100).map(|number| number as f32).collect();
        let mut found = Vec::new();
        for number in &given[3..] {
            found.extend(numbers(&pool.exchange(&numbered(&[*number]), &mut rng)));
        }
        let passed = found.iter().zip(&given[3..]).filter(|(a, b)| a == b).count();
        assert!((30..70).contains(&passed), "half of 97: {passed}");
        found.extend(numbers(&pool.images));
        found.sort_by(f32::total_cmp);
        given.sort_by(f32::total_cmp);
        assert_eq!(found, given);
    }
}
