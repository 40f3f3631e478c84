//! DeblurGAN (Kupyn et al., CVPR 2018): a ResNet generator that adds to its input what is missing, trained on pairs
//! against a critic with a gradient penalty, with a content loss on VGG features:
//! `L_G = −mean D(G(x)) + λ·content(G(x), y)`, `L_D = mean D(G(x)) − mean D(y) + 10·penalty`, five critic steps for each
//! of the generator's, Adam (1e-4, β₁ 0.5), learning rate constant, then linearly to 0. The critic sees no condition.
//!
//! Deviations:
//! - One channel; images are on the scale of the engine's normalisation (percentiles at 0 and 1) instead of −1 to 1, and
//!   the sum of input and tanh is not clamped, since the brightest pixels and the noise lie beyond the percentiles.
//! - VGG16's relu3_3 instead of VGG19's, and images normalised as ImageNet's. Without its weights, `gan.content` names what
//!   takes its place: the critic's features of the two images, or their pixels.
//! - The penalty is on the gradient of an image's mean score by all its pixels, as Gulrajani et al. write it; the authors'
//!   code takes the norm over channels alone, which for one channel is the size of each pixel's gradient.
//! - Dropout acts in training alone. Batches of small patches instead of one of 256×256, weights may be averaged
//!   (`train.ema`), and the learning rate falls along a cosine.

use super::{Batch, Losses, Method, State, learner::Learner, step_rng, training_kind};
use crate::config::{Config, Content, Gan};
use crate::losses::{self, GanLoss};
use crate::nets::blocks::Norm;
use crate::nets::patch_discriminator::PatchDiscriminator;
use crate::nets::resnet_generator::{ResnetGenerator, Settings};
use crate::nets::{Net, vgg16::Vgg16};
use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind, Tensor};

/// DeblurGAN.
#[derive(Debug)]
pub struct DeblurGan {
    generator: Learner<ResnetGenerator>,
    critic: Learner<PatchDiscriminator>,
    vgg: Option<Vgg16>,
    gan: Gan,
    seed: u64,
    device: Device,
    kind: Kind,
}

impl DeblurGan {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let gan = &config.gan;
        let settings = Settings {
            inputs: 1,
            features: config.net.features,
            blocks: gan.blocks,
            norm: Norm::Instance,
            residual: true,
            tanh: true,
            dropout: gan.dropout,
        };
        let mut rng = Pcg64Mcg::seed_from_u64(config.seed);
        let mut critic_rng = Pcg64Mcg::seed_from_u64(rng.random());
        let generator = |path: &tch::nn::Path| ResnetGenerator::new(path, &settings, &mut rng.clone());
        let critic = |path: &tch::nn::Path| PatchDiscriminator::new(path, 1, &gan.discriminator, &mut critic_rng);
        Self {
            generator: Learner::new(device, config.train.ema, gan.beta_1, generator),
            critic: Learner::new(device, 0.0, gan.beta_1, critic),
            vgg: None,
            gan: gan.clone(),
            seed: config.seed,
            device,
            kind: training_kind(config.train.precision, device),
        }
    }

    /// One step of the critic on these images.
    fn step_critic(&mut self, real: &Tensor, fake: &Tensor, learning_rate: f64, rng: &mut Pcg64Mcg) -> Losses {
        let critic = |image: &Tensor| self.critic.net().forward(image, self.kind).scores;
        let count = real.size()[0];
        let mix: Vec<f32> = (0..count).map(|_| rng.random()).collect();
        let mix = Tensor::from_slice(&mix).reshape([count, 1, 1, 1]).to_device(self.device);
        let penalty = losses::gradient_penalty(critic, real, fake, &mix);
        let loss = GanLoss::WganGp.real(&critic(real)) + GanLoss::WganGp.fake(&critic(fake));
        (&loss + &penalty * self.gan.lambda_penalty).backward();
        self.critic.step(learning_rate);
        vec![("loss_d", loss.detach()), ("penalty", penalty.detach())]
    }

    /// One step of the generator, which restored the batch.
    fn step_generator(&mut self, restored: &Tensor, batch: &Batch, learning_rate: f64) -> Losses {
        let Batch { target, weight, .. } = batch;
        self.critic.freeze();
        let judged = self.critic.net().forward(restored, self.kind);
        let adversarial = GanLoss::WganGp.generator(&judged.scores);
        let content = match (self.gan.content, &self.vgg) {
            (Content::Vgg16, Some(vgg)) => losses::content(&vgg.features(target), &vgg.features(restored)),
            (Content::Vgg16, None) => panic!("VGG16 is loaded before the first step"),
            (Content::Features, _) => {
                let real = self.critic.net().forward(target, self.kind);
                losses::feature_matching(&real.features, &judged.features)
            }
            (Content::Pixel, _) => losses::l1(restored, target, weight),
        };
        (&adversarial + &content * self.gan.lambda_content).backward();
        self.generator.step(learning_rate);
        self.critic.unfreeze();
        vec![("loss_g_gan", adversarial.detach()), ("loss_content", content.detach())]
    }
}

impl Method for DeblurGan {
    fn prepare(&mut self, config: &Config) -> Result<()> {
        if config.gan.content == Content::Vgg16 {
            self.vgg = Some(config.gan.load_vgg16(self.device, self.kind)?);
        }
        Ok(())
    }

    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let mut rng = step_rng(self.seed, self.generator.steps());
        let restored = self.generator.net().run(&batch.input, self.kind, Some(&mut rng));
        let fake = restored.detach();
        let steps = (0..self.gan.critic_steps).map(|_| self.step_critic(&batch.target, &fake, learning_rate, &mut rng));
        let critic = steps.last().expect("the config asks for at least one step of the critic");
        let generator = self.step_generator(&restored, batch, learning_rate);
        critic.into_iter().chain(generator).collect()
    }

    fn generator(&self) -> &dyn Net {
        self.generator.result()
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.generator.add_state("generator", &mut state);
        self.critic.add_state("critic", &mut state);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, changed, smoke};
    use super::*;

    #[test]
    fn generator_and_critic_learn_apart() {
        let config = smoke("deblur-gan", &["gan.content=features", "gan.dropout=0.5"]);
        let mut method = DeblurGan::new(&config, Device::Cpu);
        let batch = batch(32);
        let mut rng = step_rng(1, 0);
        let restored = method.generator.net().run(&batch.input, Kind::Float, Some(&mut rng));

        let before = changed(&method.state());
        method.step_critic(&batch.target, &restored.detach(), 1e-3, &mut rng);
        assert_eq!(before(&method.state()), ["critic"]);

        let before = changed(&method.state());
        method.step_generator(&restored, &batch, 1e-3);
        assert_eq!(before(&method.state()), ["generator"]);
    }
}
