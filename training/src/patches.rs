//! Images → batches of patches. Batch number k is a pure function of the seed and k: threads may prepare batches ahead
//! in any order, and a resumed run gets exactly the batches it would have got.

use crate::config::{Config, Simulate};
use crate::degrade;
use crate::methods::Batch;
use crate::pairs::{Images, Pair, Plane};
use anyhow::{Result, ensure};
use mdr::Task;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::sync::{Arc, mpsc};
use tch::{Device, Tensor};

/// Tries to find a patch with something in it.
const TRIES: usize = 20;

/// Patches of one batch in memory, ready for the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// N·Y·X samples each.
    input: Vec<f32>,
    target: Vec<f32>,
    weight: Vec<f32>,
    size: usize,
}

impl Patches {
    /// Moves the patches to the device, as N, 1, Y, X.
    pub fn to_batch(&self, device: Device) -> Batch {
        let (count, size) = (self.weight.len() as i64, self.size as i64);
        let images = |samples: &[f32]| Tensor::from_slice(samples).reshape([count, 1, size, size]).to_device(device);
        Batch {
            input: images(&self.input),
            target: images(&self.target),
            weight: Tensor::from_slice(&self.weight).reshape([count, 1, 1, 1]).to_device(device),
        }
    }

    fn push(&mut self, input: &Plane, target: &Plane, weight: f32) {
        self.input.extend_from_slice(&input.samples);
        self.target.extend_from_slice(&target.samples);
        self.weight.push(weight);
    }
}

/// Cuts batches from the training images.
#[derive(Debug)]
pub struct Sampler {
    config: Config,
    images: Images,
    /// Running sums of the images' weights, and, for pairs, the sample above which there is foreground.
    pair_weights: Vec<f64>,
    clean_weights: Vec<f64>,
    foreground: Vec<f32>,
}

impl Sampler {
    /// Checks that there is something to train from, and that every image holds a patch.
    ///
    /// # Errors
    /// Naming the image or the setting at fault.
    pub fn new(config: &Config, images: Images) -> Result<Self> {
        let size = config.patches.size;
        let planes = images.pairs.iter().map(|pair| (&pair.name, &pair.input));
        for (name, plane) in planes.chain(images.clean.iter().map(|clean| (&clean.name, &clean.plane))) {
            ensure!(
                plane.y >= size && plane.x >= size,
                "{name} has {}x{} pixels, less than a patch of {size}x{size} (patches.size)",
                plane.y,
                plane.x
            );
        }
        match &config.simulate {
            Some(simulate) => {
                let phantoms_only = simulate.phantoms == 1.0;
                ensure!(
                    simulate.fraction == 0.0 || phantoms_only || !images.clean.is_empty(),
                    "[simulate] needs clean images to train from (clean/NAME.tif, split train); found none"
                );
                ensure!(
                    simulate.fraction == 1.0 || !images.pairs.is_empty(),
                    "simulate.fraction below 1 needs pairs to train from; found none"
                );
            }
            None => ensure!(
                !images.pairs.is_empty(),
                "found no pair to train from (low/NAME.tif with high/NAME.tif, split train); to train from clean \
                 images, add [simulate] to the config"
            ),
        }
        let running = |weights: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
            weights
                .scan(0.0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                })
                .collect()
        };
        let pair_weights = running(&mut images.pairs.iter().map(|pair| pair.weight));
        let clean_weights = running(&mut images.clean.iter().map(|clean| clean.weight));
        let foreground = images.pairs.iter().map(|pair| foreground(&pair.target, config.patches.foreground));
        let foreground = foreground.collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), images, pair_weights, clean_weights, foreground })
    }

    /// Batch number `index`.
    ///
    /// # Errors
    /// Those of the simulation; none for finite images.
    pub fn batch(&self, index: u64) -> Result<Patches> {
        let Config { patches: settings, train, data, .. } = &self.config;
        let size = settings.size;
        let mut rng = Pcg64Mcg::seed_from_u64(self.config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index));
        let mut patches = Patches { input: vec![], target: vec![], weight: vec![], size };
        while patches.weight.len() < train.batch {
            let room = train.batch - patches.weight.len();
            match &self.config.simulate {
                Some(simulate) if rng.random_bool(simulate.fraction) => {
                    let count = simulate.patches_per_window.min(room);
                    let window = self.simulated(simulate, data, &mut rng)?;
                    let foreground = foreground(&window.target, settings.foreground)?;
                    for _ in 0..count {
                        let (input, target) = self.cut(&window.input, &window.target, foreground, &mut rng);
                        patches.push(&input, &target, window.weight);
                    }
                }
                simulate => {
                    // As many patches at once as a simulated window gives, else `fraction` would not be that of patches.
                    let count = simulate.as_ref().map_or(1, |simulate| simulate.patches_per_window.min(room));
                    for _ in 0..count {
                        let number = draw(&self.pair_weights, &mut rng);
                        let Pair { input, target, .. } = &self.images.pairs[number];
                        let (input, target) = self.cut(input, target, self.foreground[number], &mut rng);
                        patches.push(&input, &target, 1.0);
                    }
                }
            }
        }
        Ok(patches)
    }

    fn simulated(
        &self,
        simulate: &Simulate,
        data: &crate::config::Data,
        rng: &mut Pcg64Mcg,
    ) -> Result<degrade::Window> {
        let clean = &self.images.clean;
        let choose = |rng: &mut Pcg64Mcg| clean.get(draw(&self.clean_weights, rng)).map(|clean| &clean.plane);
        degrade::window(choose, self.config.patches.size, simulate, data, rng)
    }

    /// A patch at a random place, preferably with something in it, flipped and turned at random.
    fn cut(&self, input: &Plane, target: &Plane, foreground: f32, rng: &mut Pcg64Mcg) -> (Plane, Plane) {
        let size = self.config.patches.size;
        let mut corner = [0, 0];
        for _ in 0..TRIES {
            corner = [rng.random_range(0..=input.y - size), rng.random_range(0..=input.x - size)];
            if has_foreground(target, corner, size, foreground) {
                break;
            }
        }
        // Rows and columns of an axial image are not of one kind.
        let turns = if self.config.task == Task::Axial { 4 } else { 8 };
        let turn = if self.config.patches.augment { rng.random_range(0..turns) } else { 0 };
        let cut = |plane: &Plane| turned(&plane.crop(corner, [size; 2]), turn);
        (cut(input), cut(target))
    }
}

/// The sample above which there is foreground: this part of the way from the 0.1 to the 99.9 percentile.
fn foreground(target: &Plane, part: f64) -> Result<f32> {
    if part == 0.0 {
        return Ok(f32::NEG_INFINITY);
    }
    let percentile = |q| mdr::metrics::percentile(&target.samples, q);
    let (low, high) = (percentile(0.1)?, percentile(99.9)?);
    Ok((low + part * (high - low)) as f32)
}

/// Whether the middle of the patch, half its side wide, holds such a sample.
fn has_foreground(target: &Plane, [top, left]: [usize; 2], size: usize, foreground: f32) -> bool {
    let middle = size / 4;
    (top + middle..top + size - middle).any(|row| {
        let row = &target.samples[row * target.x + left + middle..][..size - 2 * middle];
        row.iter().any(|&sample| sample > foreground)
    })
}

/// One of the eight orientations of a square: bit 2 exchanges rows and columns, bits 1 and 0 flip.
fn turned(patch: &Plane, turn: usize) -> Plane {
    let size = patch.x;
    let mut samples = Vec::with_capacity(patch.samples.len());
    for row in 0..size {
        for column in 0..size {
            let (mut y, mut x) = if turn & 4 == 0 { (row, column) } else { (column, row) };
            if turn & 2 != 0 {
                y = size - 1 - y;
            }
            if turn & 1 != 0 {
                x = size - 1 - x;
            }
            samples.push(patch.samples[y * size + x]);
        }
    }
    Plane { y: size, x: size, samples }
}

/// An index, with probabilities given by running sums of weights.
fn draw(running: &[f64], rng: &mut Pcg64Mcg) -> usize {
    let total = running.last().copied().unwrap_or(0.0);
    let point = rng.random::<f64>() * total;
    running.partition_point(|&sum| sum <= point).min(running.len().saturating_sub(1))
}

/// Prepares batches ahead in background threads, and hands them out in order.
#[derive(Debug)]
pub struct Loader {
    /// One queue per thread; batch k comes from queue k modulo their number.
    queues: Vec<mpsc::Receiver<Result<Patches>>>,
    next: u64,
}

impl Loader {
    /// Starts at batch `first`. Threads end when the loader is dropped.
    pub fn start(sampler: Arc<Sampler>, first: u64) -> Self {
        let threads = sampler.config.train.loader_threads as u64;
        let queues = (0..threads).map(|thread| {
            let (sender, receiver) = mpsc::sync_channel(4);
            let sampler = Arc::clone(&sampler);
            // The first batch from `first` on whose number modulo `threads` is `thread`.
            let mut index = first + (thread + threads - first % threads) % threads;
            std::thread::spawn(move || {
                while sender.send(sampler.batch(index)).is_ok() {
                    index += threads;
                }
            });
            receiver
        });
        Self { queues: queues.collect(), next: first }
    }

    /// The next batch.
    ///
    /// # Errors
    /// Those of [`Sampler::batch`].
    pub fn take(&mut self) -> Result<Patches> {
        let queue = &self.queues[(self.next % self.queues.len() as u64) as usize];
        self.next += 1;
        queue.recv()?
    }
}
