//! CIN-GAN (Razdaibiedina et al. 2019): learns to synthesise the defects of several tasks from images that do not belong
//! together. One generator turns clean images into degraded ones; of it, only γ_i and β_i, and what optics and noise are
//! described by, belong to a task. Each task has a discriminator that tells the result from real degraded images;
//! `L_G = lsgan(D_i(G_i(y, n))) + λ·content(G_i(y, n), y) + λ'·statistics(G_i(y, n), x) + λ''·pairs(G_i(y, n), x)`,
//! `L_D = ½ (lsgan_real(D_i(x)) + lsgan_fake(D_i(G_i(y, n))))`, Adam (β₁ 0.5). A *separate GAN* is the same
//! with a single task, one run a task, for the comparison.
//!
//! Deviations:
//! - The generator has a noise input, and puts what it draws together as an image is taken (nets/cin_generator.rs).
//! - `pairs` (`gan.lambda_pairs`, [`losses::unexplained`]): where there are pairs too, every other patch is of one, and
//!   what can be foreseen of the degraded image should explain it. Images that belong to no other have no part in it.
//! - Content that needs no file (`gan.content = "pixel"`): 1 − r, r the correlation of the two images after a Gaussian of
//!   2 pixels, patch by patch. It holds structures in place, keeps coloured noise from standing in for them, and leaves the rest,
//!   which VGG16's features (`gan.content = "vgg16"`) would pull towards those of the clean image.
//! - `statistics` (`gan.lambda_statistics`, losses.rs) compares what can be measured without a network: power spectrum,
//!   variance and skewness of noise by intensity, noise by image, and intensities; of the patches of pairs alone, where
//!   there are any, as those show the same. A discriminator needs many more steps to tell these.
//! - The discriminators have no normalisation, which would hide the amplitude of the noise from them, and therefore
//!   He's initial weights.

use super::{Batch, Losses, Method, State, learner::Learner, step_rng, training_kind};
use crate::config::{Config, Content, Gan};
use crate::losses::{self, GanLoss};
use crate::nets::cin_generator::CinGenerator;
use crate::nets::patch_discriminator::PatchDiscriminator;
use crate::nets::{Net, vgg16::Vgg16};
use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind, Tensor, nn};

/// CIN-GAN, or a separate GAN.
#[derive(Debug)]
pub struct CinGan {
    generator: Learner<CinGenerator>,
    /// One a task.
    discriminators: Vec<Learner<PatchDiscriminator>>,
    vgg: Option<Vgg16>,
    gan: Gan,
    seed: u64,
    device: Device,
    kind: Kind,
}

impl CinGan {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let (gan, tasks) = (&config.gan, config.tasks.len());
        let mut rng = Pcg64Mcg::seed_from_u64(config.seed);
        let mut judge_rng = Pcg64Mcg::seed_from_u64(rng.random());
        let net = |path: &nn::Path| CinGenerator::new(path, config.net.features, gan.blocks, tasks, &mut rng.clone());
        let generator = Learner::new(device, config.train.ema, gan.beta_1, net);
        let mut judge = |path: &nn::Path| PatchDiscriminator::new(path, 1, &gan.discriminator, &mut judge_rng);
        let discriminators = (0..tasks).map(|_| Learner::new(device, 0.0, gan.beta_1, &mut judge)).collect();
        let kind = training_kind(config.train.precision, device);
        Self { generator, discriminators, vgg: None, gan: gan.clone(), seed: config.seed, device, kind }
    }

    fn step_discriminator(&mut self, task: usize, real: &Tensor, fake: &Tensor, learning_rate: f64) -> Losses {
        let discriminator = &mut self.discriminators[task];
        let judge = |image: &Tensor| discriminator.net().forward(image, self.kind).scores;
        let (real, fake) = (GanLoss::Lsgan.real(&judge(real)), GanLoss::Lsgan.fake(&judge(&fake.detach())));
        ((&real + &fake) * 0.5).backward();
        discriminator.step(learning_rate);
        vec![("loss_d_real", real.detach()), ("loss_d_fake", fake.detach())]
    }
}

/// Clean images with white noise beside them and a normal number of each image, as the generator takes them: N, 1, Y, X →
/// N, 3, Y, X.
pub fn with_noise(clean: &Tensor, rng: &mut Pcg64Mcg) -> Tensor {
    let mut normal = |count: usize| -> Vec<f32> { StandardNormal.sample_iter(&mut *rng).take(count).collect() };
    let noise = Tensor::from_slice(&normal(clean.numel())).reshape(clean.size()).to_device(clean.device());
    let exposure =
        Tensor::from_slice(&normal(clean.size()[0] as usize)).reshape([-1, 1, 1, 1]).to_device(clean.device());
    Tensor::cat(&[clean.shallow_clone(), noise, exposure.expand_as(clean)], 1)
}

impl Method for CinGan {
    fn prepare(&mut self, config: &Config) -> Result<()> {
        if self.gan.content == Content::Vgg16 {
            self.vgg = Some(config.gan.load_vgg16(self.device, self.kind)?);
        }
        Ok(())
    }

    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let Batch { task, input: degraded, target: clean, weight } = batch;
        let mut rng = step_rng(self.seed, self.generator.steps());
        let [foreseen, rest] = self.generator.net().parts(&with_noise(clean, &mut rng), *task, self.kind);
        let synthetic = &foreseen + rest;
        let judged = self.step_discriminator(*task, degraded, &synthetic, learning_rate);

        let discriminator = &mut self.discriminators[*task];
        discriminator.freeze();
        let scores = discriminator.net().forward(&synthetic, self.kind).scores;
        let adversarial = GanLoss::Lsgan.generator(&scores);
        let content = match &self.vgg {
            Some(vgg) => losses::content(&vgg.features(clean), &vgg.features(&synthetic)),
            None => losses::decorrelation(&synthetic, clean),
        };
        let mut total = &adversarial + &content * self.gan.lambda_content;
        let mut losses = vec![("loss_g_gan", adversarial.detach()), ("loss_content", content.detach())];
        if self.gan.lambda_statistics > 0.0 {
            // Of patches that belong together, where there are any: those show the same.
            let weighed = weight.reshape([-1]).nonzero().reshape([-1]);
            let choose = |images: &Tensor| match weighed.numel() {
                0 => images.shallow_clone(),
                _ => images.index_select(0, &weighed),
            };
            let statistics = losses::statistics(&choose(&synthetic), &choose(degraded));
            total += &statistics * self.gan.lambda_statistics;
            losses.push(("loss_statistics", statistics.detach()));
        }
        if self.gan.lambda_pairs > 0.0 {
            let unexplained = losses::unexplained(&foreseen, degraded, weight);
            total += &unexplained * self.gan.lambda_pairs;
            losses.push(("loss_pairs", unexplained.detach()));
        }
        total.backward();
        self.generator.step(learning_rate);
        self.discriminators[*task].unfreeze();
        judged.into_iter().chain(losses).collect()
    }

    fn generator(&self) -> &dyn Net {
        self.generator.result()
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.generator.add_state("generator", &mut state);
        for (task, discriminator) in self.discriminators.iter().enumerate() {
            discriminator.add_state(&format!("discriminator.{task}"), &mut state);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, changed, smoke};
    use super::*;

    #[test]
    fn generator_and_discriminator_learn_apart() {
        let mut method = CinGan::new(&smoke("separate-gan", &["gan.content=pixel"]), Device::Cpu);
        let batch = batch(32);
        let untouched = changed(&method.state());
        method.step_discriminator(0, &batch.input, &batch.target, 1e-3);
        assert_eq!(untouched(&method.state()), ["discriminator"]);
        let untouched = changed(&method.state());
        method.step(&batch, 0.0);
        // At a learning rate of 0 only what is no weight moves: moments and numbers of steps. No gradient is left over.
        assert_eq!(untouched(&method.state()), ["discriminator", "generator"]);
        for (name, tensor) in method.state() {
            let gradient = tensor.grad();
            assert!(!gradient.defined() || gradient.abs().max().double_value(&[]) == 0.0, "{name}");
        }
    }

    #[test]
    fn tasks_share_all_but_gamma_beta_and_the_noise_kernel() {
        let mut config = smoke("separate-gan", &["gan.content=pixel"]);
        config.tasks = vec![mdr::Task::Denoise, mdr::Task::Axial];
        let mut method = CinGan::new(&config, Device::Cpu);
        let batch = Batch { task: 1, ..batch(32) };
        let before: State = method.state().into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect();
        method.step(&batch, 1e-2);
        let mut touched = 0;
        for (name, tensor) in method.state().iter().filter(|(name, _)| name.starts_with("generator.net")) {
            let moved = |task: i64| !tensor.detach().get(task).equal(&before[name].get(task));
            if ["gamma", "beta", "colour", "optics"].iter().any(|end| name.ends_with(end)) {
                assert!(!moved(0), "{name} of the other task moved");
                touched += usize::from(moved(1));
            } else {
                touched += usize::from(!tensor.detach().equal(&before[name]));
            }
        }
        assert!(touched > 10, "{touched}");
    }
}
