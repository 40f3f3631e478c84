//! Images → batches of patches. Batch number k is a pure function of the seed and k: threads may prepare batches ahead
//! in any order, and a resumed run gets exactly the batches it would have got.

use crate::config::Config;
use crate::degrade;
use crate::methods::Batch;
use crate::pairs::{Images, Plane, normalized};
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
    task: usize,
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
            task: self.task,
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
    /// Material of each of the config's tasks; batches take turns.
    tasks: Vec<Material>,
}

/// What batches of one task are cut from.
#[derive(Debug)]
struct Material {
    /// Degraded planes on the scale of the network.
    inputs: Pool,
    /// Their references, in the same order; for an unpaired method, clean planes.
    targets: Pool,
    /// Clean planes to be degraded.
    clean: Pool,
    /// So many inputs and targets belong together, each to the one with its number.
    pairs: usize,
}

/// Planes, the running sums of their weights, and, of each, the sample above which there is foreground.
#[derive(Debug, Default)]
struct Pool {
    planes: Vec<Plane>,
    weights: Vec<f64>,
    foreground: Vec<f32>,
}

impl Pool {
    fn push(&mut self, plane: Plane, weight: f64, part: f64) -> Result<()> {
        self.foreground.push(foreground(&plane, part)?);
        self.planes.push(plane);
        self.weights.push(self.weights.last().unwrap_or(&0.0) + weight);
        Ok(())
    }

    /// An index, with probabilities given by the weights.
    fn draw(&self, rng: &mut Pcg64Mcg) -> usize {
        self.draw_of(self.weights.len(), rng)
    }

    /// One of the first so many.
    fn draw_of(&self, count: usize, rng: &mut Pcg64Mcg) -> usize {
        let weights = &self.weights[..count];
        let point = rng.random::<f64>() * weights.last().copied().unwrap_or(0.0);
        weights.partition_point(|&sum| sum <= point).min(count.saturating_sub(1))
    }
}

impl Sampler {
    /// Checks that there is something to train from, and that every image holds a patch.
    ///
    /// # Errors
    /// Naming the image or the setting at fault.
    pub fn new(config: &Config, images: Images) -> Result<Self> {
        let size = config.patches.size;
        let part = config.patches.foreground;
        let unpaired = config.method.unpaired();
        let simulated = config.simulate.as_ref().filter(|simulate| simulate.fraction > 0.0 && !unpaired);
        let mut tasks: Vec<Material> = (config.tasks.iter())
            .map(|_| Material { inputs: Pool::default(), targets: Pool::default(), clean: Pool::default(), pairs: 0 })
            .collect();
        let fits = |name: &str, plane: &Plane| {
            ensure!(
                plane.y >= size && plane.x >= size,
                "{name} has {}x{} pixels, less than a patch of {size}x{size} (patches.size)",
                plane.y,
                plane.x
            );
            Ok(())
        };
        for pair in images.pairs {
            fits(&pair.name, &pair.input)?;
            tasks[pair.task].pairs += 1;
            tasks[pair.task].inputs.push(pair.input, pair.weight, part)?;
            // A target is on the scale of its input; without a partner it is on its own.
            let target = if unpaired { normalized(pair.target, &config.data)? } else { pair.target };
            tasks[pair.task].targets.push(target, pair.weight, part)?;
        }
        for single in images.degraded {
            fits(&single.name, &single.plane)?;
            tasks[single.task].inputs.push(single.plane, single.weight, part)?;
        }
        for mut single in images.clean {
            fits(&single.name, &single.plane)?;
            if unpaired {
                single.plane = normalized(single.plane, &config.data)?;
                tasks[single.task].targets.push(single.plane, single.weight, part)?;
            } else {
                tasks[single.task].clean.push(single.plane, single.weight, part)?;
            }
        }
        for (task, material) in config.tasks.iter().zip(&tasks) {
            let (inputs, targets) = (material.inputs.planes.len(), material.targets.planes.len());
            if unpaired {
                ensure!(
                    inputs > 0 && targets > 0,
                    "{} learns from degraded and clean images (degraded/NAME.tif, clean/NAME.tif, or pairs, split \
                     train); found {inputs} and {targets} of task {task}",
                    config.method.published_name()
                );
            } else if let Some(simulate) = simulated {
                ensure!(
                    simulate.phantoms == 1.0 || !material.clean.planes.is_empty(),
                    "[simulate] needs clean images to train from (clean/NAME.tif, split train); found none"
                );
                ensure!(
                    simulate.fraction == 1.0 || inputs > 0,
                    "simulate.fraction below 1 needs pairs to train from; found none"
                );
            } else {
                ensure!(
                    inputs > 0,
                    "found no pair of task {task} to train from (low/NAME.tif with high/NAME.tif, split train); to \
                     train from clean images, add [simulate] to the config"
                );
            }
        }
        Ok(Self { config: config.clone(), tasks })
    }

    /// Batch number `index`.
    ///
    /// # Errors
    /// Those of the simulation; none for finite images.
    pub fn batch(&self, index: u64) -> Result<Patches> {
        let Config { patches: settings, train, data, simulate, .. } = &self.config;
        let size = settings.size;
        let task = (index % self.tasks.len() as u64) as usize;
        let Material { inputs, targets, clean, pairs } = &self.tasks[task];
        // Where a loss has a use for them, every other patch of an unpaired method is of a pair.
        let pairs = if self.config.gan.lambda_pairs > 0.0 { *pairs } else { 0 };
        let mut rng = Pcg64Mcg::seed_from_u64(self.config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index));
        let mut patches = Patches { task, input: vec![], target: vec![], weight: vec![], size };
        while patches.weight.len() < train.batch {
            let room = train.batch - patches.weight.len();
            if self.config.method.unpaired() {
                if pairs > 0 && patches.weight.len().is_multiple_of(2) {
                    let number = targets.draw_of(pairs, &mut rng);
                    let planes = [&inputs.planes[number], &targets.planes[number]];
                    let [input, target] = self.cut(planes, targets.foreground[number], &mut rng);
                    patches.push(&input, &target, 1.0);
                    continue;
                }
                let mut cut = |pool: &Pool| {
                    let number = pool.draw(&mut rng);
                    let plane = &pool.planes[number];
                    self.cut([plane, plane], pool.foreground[number], &mut rng)[0].clone()
                };
                let (input, target) = (cut(inputs), cut(targets));
                patches.push(&input, &target, 0.0);
                continue;
            }
            match simulate {
                Some(simulate) if rng.random_bool(simulate.fraction) => {
                    let count = simulate.patches_per_window.min(room);
                    let choose = |rng: &mut Pcg64Mcg| clean.planes.get(clean.draw(rng));
                    let window = degrade::window(choose, size, simulate, data, &mut rng)?;
                    let foreground = foreground(&window.target, settings.foreground)?;
                    for _ in 0..count {
                        let [input, target] = self.cut([&window.input, &window.target], foreground, &mut rng);
                        patches.push(&input, &target, window.weight);
                    }
                }
                simulate => {
                    // As many patches at once as a simulated window gives, else `fraction` would not be that of patches.
                    let count = simulate.as_ref().map_or(1, |simulate| simulate.patches_per_window.min(room));
                    for _ in 0..count {
                        let cut = |rng: &mut Pcg64Mcg| {
                            let number = targets.draw(rng);
                            let planes = [&inputs.planes[number], &targets.planes[number]];
                            self.cut(planes, targets.foreground[number], rng)
                        };
                        let mut patch = cut(&mut rng);
                        if settings.superpose > 0.0 && rng.random_bool(settings.superpose) {
                            let other = cut(&mut rng);
                            let brightness: f32 = rng.random();
                            for (plane, other) in patch.iter_mut().zip(other) {
                                let samples = plane.samples.iter_mut().zip(other.samples);
                                samples.for_each(|(sample, other)| *sample += brightness * other);
                            }
                        }
                        let [input, target] = patch;
                        patches.push(&input, &target, 1.0);
                    }
                }
            }
        }
        Ok(patches)
    }

    /// A patch at a random place, preferably with something in it, flipped and turned at random.
    fn cut(&self, planes: [&Plane; 2], foreground: f32, rng: &mut Pcg64Mcg) -> [Plane; 2] {
        let size = self.config.patches.size;
        let target = planes[1];
        let mut corner = [0, 0];
        for _ in 0..TRIES {
            corner = [rng.random_range(0..=target.y - size), rng.random_range(0..=target.x - size)];
            if has_foreground(target, corner, size, foreground) {
                break;
            }
        }
        // Rows and columns of an axial image are not of one kind.
        let turns = if self.config.tasks.contains(&Task::Axial) { 4 } else { 8 };
        let turn = if self.config.patches.augment { rng.random_range(0..turns) } else { 0 };
        planes.map(|plane| turned(&plane.crop(corner, [size; 2]), turn))
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
