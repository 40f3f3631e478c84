//! Nothing → phantom: pictures that look like fluorescence micrographs, drawn from a seeded generator.

use super::blur::{add_weighted, gaussian_blur};
use crate::Image;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal, StandardNormal};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use std::f32::consts::TAU;

/// What a phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phantom {
    /// Microtubules that radiate from a centre, or bundles of actin fibres; in cells.
    Filaments,
    /// Short thick worms, dense around the nucleus.
    Mitochondria,
    /// Ellipse-like nuclei with textured chromatin, bright spots and dark nucleoli.
    Nuclei,
    /// Spots of varied size and brightness over a dim cytoplasm.
    Puncta,
    /// Outlines of touching cells.
    Membranes,
    /// Several of the above in the same cells.
    Mixed,
}

impl Phantom {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Filaments, Self::Mitochondria, Self::Nuclei, Self::Puncta, Self::Membranes, Self::Mixed];
}

/// Draws a simulated micrograph without noise: one plane of `y` rows and `x` columns, from 0 to 1 (1 is reached,
/// unless the plane is so small that it shows nothing). Out-of-focus haze and a dim background are part of it.
pub fn phantom(kind: Phantom, y: usize, x: usize, seed: u64) -> Image {
    let mut rng = Pcg64::seed_from_u64(seed);
    let rng = &mut rng;
    // Lengths are in pixels at magnification 1; pictures differ in it.
    let scene = Scene { y, x, magnification: uniform(rng, 0.75, 1.5) };
    let mut canvas = Canvas::new(y, x);
    let cells = scene.cells(rng);
    match kind {
        Phantom::Filaments => scene.filaments(&mut canvas, &cells, rng),
        Phantom::Mitochondria => scene.mitochondria(&mut canvas, &cells, rng),
        Phantom::Nuclei => {
            let nuclei = scene.scattered_nuclei(rng);
            scene.nuclei(&mut canvas, &nuclei, rng);
        }
        Phantom::Puncta => scene.puncta(&mut canvas, &cells, rng),
        Phantom::Membranes => scene.membranes(&mut canvas, rng),
        Phantom::Mixed => {
            let mut layer = |draw: &dyn Fn(&mut Canvas, &mut Pcg64), rng: &mut Pcg64| {
                let mut layer = Canvas::new(y, x);
                draw(&mut layer, rng);
                layer.scale_to(uniform(rng, 0.4, 1.0));
                add_weighted(&mut canvas.samples, &layer.samples, 1.0);
            };
            if rng.random_bool(0.5) {
                layer(&|c, r| scene.filaments(c, &cells, r), rng);
            } else {
                layer(&|c, r| scene.mitochondria(c, &cells, r), rng);
            }
            let nuclei: Vec<_> = cells.iter().map(|cell| cell.nucleus(rng)).collect();
            layer(&|c, r| scene.nuclei(c, &nuclei, r), rng);
            if rng.random_bool(0.5) {
                layer(&|c, r| scene.puncta(c, &cells, r), rng);
            }
        }
    }
    canvas.blur(uniform(rng, 0.9, 1.3));
    canvas.scale_to(1.0);
    if !matches!(kind, Phantom::Nuclei | Phantom::Membranes) {
        canvas.compress(uniform(rng, 1.0, 3.5));
    }
    scene.add_haze(&mut canvas, &cells, rng);
    canvas.scale_to(1.0);
    Image::from_plane(y, x, canvas.samples).expect("the canvas has y * x samples")
}

/// Plane on which structures are drawn; positions are (row, column) of pixel centres, and may lie outside.
struct Canvas {
    y: usize,
    x: usize,
    samples: Vec<f32>,
}

impl Canvas {
    fn new(y: usize, x: usize) -> Self {
        Self { y, x, samples: vec![0.0; y * x] }
    }

    /// Adds a point of light, shared between the four nearest pixels.
    fn point(&mut self, (y, x): (f32, f32), light: f32) {
        let (top, left) = (y.floor(), x.floor());
        let (down, right) = (y - top, x - left);
        for (row, wy) in [(top, 1.0 - down), (top + 1.0, down)] {
            for (column, wx) in [(left, 1.0 - right), (left + 1.0, right)] {
                if row >= 0.0 && column >= 0.0 && (row as usize) < self.y && (column as usize) < self.x {
                    self.samples[row as usize * self.x + column as usize] += light * wy * wx;
                }
            }
        }
    }

    /// Calls `change` for each pixel within `reach` of `centre`, with its offset from there.
    fn around(&mut self, centre: (f32, f32), reach: f32, mut change: impl FnMut(&mut f32, f32, f32)) {
        let span = |c: f32, length: usize| {
            (c - reach).ceil().max(0.0) as usize..((c + reach).floor() + 1.0).clamp(0.0, length as f32) as usize
        };
        for row in span(centre.0, self.y) {
            for column in span(centre.1, self.x) {
                let sample = &mut self.samples[row * self.x + column];
                change(sample, row as f32 - centre.0, column as f32 - centre.1);
            }
        }
    }

    /// Adds a Gaussian spot with this peak.
    fn spot(&mut self, centre: (f32, f32), sigma: f32, peak: f32) {
        self.around(centre, 3.5 * sigma, |sample, dy, dx| {
            *sample += peak * (-0.5 * (dy * dy + dx * dx) / (sigma * sigma)).exp();
        });
    }

    fn blur(&mut self, sigma: f32) {
        self.samples = gaussian_blur(&self.samples, (self.y, self.x), (sigma.into(), sigma.into()))
            .expect("the canvas has y * x samples");
    }

    /// Tames the brightest spots of samples in 0..1, where structures pile up: the rest would be lost in the dark.
    fn compress(&mut self, strength: f32) {
        self.samples.iter_mut().for_each(|s| *s = 1.0 - (-strength * *s).exp());
    }

    /// Makes `peak` of the largest sample, unless all are 0.
    fn scale_to(&mut self, peak: f32) {
        let maximum = self.samples.iter().copied().fold(0.0, f32::max);
        if maximum > 0.0 {
            self.samples.iter_mut().for_each(|s| *s = *s / maximum * peak);
        }
    }
}

/// A closed outline, an ellipse with dents.
struct Outline {
    centre: (f32, f32),
    /// Half the long axis.
    radius: f32,
    /// Short axis over long axis.
    aspect: f32,
    /// Direction of the long axis.
    angle: f32,
    /// Amplitude (of the radius) and phase of 2, 3, 4, 5 dents.
    dents: [(f32, f32); 4],
}

impl Outline {
    fn new(rng: &mut Pcg64, centre: (f32, f32), radius: f32, aspect: f32, roughness: f32) -> Self {
        let angle = uniform(rng, 0.0, TAU);
        let dents = std::array::from_fn(|k| (roughness * gaussian(rng) / (k + 1) as f32, uniform(rng, 0.0, TAU)));
        Self { centre, radius, aspect, angle, dents }
    }

    /// Distance from the centre as a share of the outline's there: below 1 inside.
    fn share(&self, dy: f32, dx: f32) -> f32 {
        let (sin, cos) = self.angle.sin_cos();
        let (along, across) = (dx * cos + dy * sin, (dy * cos - dx * sin) / self.aspect);
        let angle = across.atan2(along);
        let dent = |(k, (amplitude, phase)): (usize, &(f32, f32))| amplitude * ((k + 2) as f32 * angle + phase).cos();
        let radius = self.radius * (1.0 + self.dents.iter().enumerate().map(dent).sum::<f32>()).max(0.3);
        along.hypot(across) / radius
    }

    fn reach(&self) -> f32 {
        2.0 * self.radius
    }

    /// A place inside, more often central than not where `power` is above 0.5.
    fn place(&self, rng: &mut Pcg64, power: f32) -> (f32, f32) {
        let (angle, distance) = (uniform(rng, 0.0, TAU), uniform(rng, 0.0, 1.0).powf(power) * 0.95);
        let direction = (angle.sin(), angle.cos());
        let edge = self.radius / self.share(direction.0 * self.radius, direction.1 * self.radius).max(0.2);
        (self.centre.0 + direction.0 * edge * distance, self.centre.1 + direction.1 * edge * distance)
    }

    fn contains(&self, (y, x): (f32, f32)) -> bool {
        self.share(y - self.centre.0, x - self.centre.1) < 1.0
    }

    fn nucleus(&self, rng: &mut Pcg64) -> Self {
        let radius = self.radius * uniform(rng, 0.22, 0.32);
        let aspect = uniform(rng, 0.65, 1.0);
        Self { angle: self.angle, ..Self::new(rng, self.centre, radius, aspect, 0.04) }
    }
}

/// Size of the picture, and how much it is enlarged.
struct Scene {
    y: usize,
    x: usize,
    magnification: f32,
}

impl Scene {
    /// Up to about `number` places, on the plane or up to `margin` beyond, at least `distance` from each other.
    fn scattered(&self, rng: &mut Pcg64, number: usize, margin: f32, distance: f32) -> Vec<(f32, f32)> {
        let mut places: Vec<(f32, f32)> = Vec::new();
        for _ in 0..number {
            let place = (uniform(rng, -margin, self.y as f32 + margin), uniform(rng, -margin, self.x as f32 + margin));
            if places.iter().all(|p| (p.0 - place.0).hypot(p.1 - place.1) >= distance) {
                places.push(place);
            }
        }
        places
    }

    /// How many things lie on the plane and its margin if each takes a square of this side.
    fn number(&self, side: f32, margin: f32) -> usize {
        ((self.y as f32 + 2.0 * margin) * (self.x as f32 + 2.0 * margin) / (side * side)).ceil() as usize
    }

    fn cells(&self, rng: &mut Pcg64) -> Vec<Outline> {
        let radius = 130.0 * self.magnification;
        let number = 6 * self.number(1.6 * radius, 0.5 * radius);
        let places = self.scattered(rng, number, 0.5 * radius, 1.25 * radius);
        let cell = |place| {
            let (size, aspect) = (radius * uniform(rng, 0.8, 1.25), uniform(rng, 0.5, 0.95));
            Outline::new(rng, place, size, aspect, 0.12)
        };
        places.into_iter().map(cell).collect()
    }

    fn filaments(&self, canvas: &mut Canvas, cells: &[Outline], rng: &mut Pcg64) {
        let bundles = rng.random_bool(0.5);
        for cell in cells {
            let brightness = lognormal(rng, 0.3);
            let nucleus = cell.nucleus(rng);
            if bundles {
                for _ in 0..rng.random_range(70..150) {
                    let heading = cell.angle + 0.13 * gaussian(rng) + if rng.random_bool(0.1) { 0.8 } else { 0.0 };
                    let length = cell.radius * uniform(rng, 0.3, 1.5);
                    let light = brightness * lognormal(rng, 0.8);
                    let start = cell.place(rng, 0.5);
                    let back = (start.0 - heading.sin() * length / 2.0, start.1 - heading.cos() * length / 2.0);
                    self.walk(rng, back, heading, length, 0.0025, |place, glow| {
                        if cell.contains(place) {
                            canvas.point(place, light * glow);
                        }
                    });
                }
            } else {
                // Microtubules grow from beside the nucleus, bend, and run around it.
                for _ in 0..rng.random_range(60..130) {
                    let start = if rng.random_bool(0.7) { nucleus.place(rng, 0.5) } else { cell.place(rng, 0.5) };
                    let length = cell.radius * uniform(rng, 0.4, 1.4);
                    let heading = uniform(rng, 0.0, TAU);
                    let light = brightness * lognormal(rng, 0.35);
                    self.walk(rng, start, heading, length, 0.006, |place, glow| {
                        if cell.contains(place) {
                            let light = if nucleus.contains(place) { 0.45 * light } else { light };
                            canvas.point(place, light * glow);
                        }
                    });
                }
            }
        }
    }

    /// Follows a curved line in steps of half a pixel; `draw` gets each place and a brightness that varies slowly
    /// around 1. `bend` is how fast the curvature changes.
    fn walk(
        &self,
        rng: &mut Pcg64,
        mut place: (f32, f32),
        mut heading: f32,
        length: f32,
        bend: f32,
        mut draw: impl FnMut((f32, f32), f32),
    ) {
        let (mut curvature, mut glow) = (0.0, 0.0);
        for _ in 0..(2.0 * length) as usize {
            curvature = 0.97 * curvature + bend / self.magnification * gaussian(rng);
            glow = 0.98 * glow + 0.05 * gaussian(rng);
            heading += 0.5 * curvature;
            place = (place.0 + 0.5 * heading.sin(), place.1 + 0.5 * heading.cos());
            draw(place, (1.0 + glow).clamp(0.2, 2.0));
        }
    }

    fn mitochondria(&self, canvas: &mut Canvas, cells: &[Outline], rng: &mut Pcg64) {
        for cell in cells {
            let nucleus = cell.nucleus(rng);
            let brightness = lognormal(rng, 0.3);
            for _ in 0..rng.random_range(130..280) {
                let start = cell.place(rng, 0.75);
                let out = (start.0 - cell.centre.0).atan2(start.1 - cell.centre.1);
                // Most of them point away from the nucleus or run around it.
                let heading = if rng.random_bool(0.6) { out } else { out + TAU / 4.0 } + 0.5 * gaussian(rng);
                let length = uniform(rng, 6.0, 20.0) * lognormal(rng, 0.6) * self.magnification;
                let width = uniform(rng, 1.1, 1.9) * self.magnification;
                let light = brightness
                    * lognormal(rng, 0.45)
                    * (1.3 - 0.6 * cell.share(start.0 - cell.centre.0, start.1 - cell.centre.1).min(1.0));
                self.walk(rng, start, heading, length, 0.02, |place, glow| {
                    if cell.contains(place) && !nucleus.contains(place) {
                        canvas.spot(place, width * glow.sqrt(), 0.2 * light * glow);
                    }
                });
            }
        }
    }

    fn scattered_nuclei(&self, rng: &mut Pcg64) -> Vec<Outline> {
        let radius = 26.0 * self.magnification;
        let crowd = uniform(rng, 1.9, 3.2) * radius;
        let places = self.scattered(rng, 4 * self.number(crowd, radius), radius, crowd);
        let nucleus = |place| {
            let (size, aspect) = (radius * uniform(rng, 0.75, 1.15), uniform(rng, 0.6, 1.0));
            Outline::new(rng, place, size, aspect, 0.03)
        };
        places.into_iter().map(nucleus).collect()
    }

    fn nuclei(&self, canvas: &mut Canvas, nuclei: &[Outline], rng: &mut Pcg64) {
        let chromatin = self.texture(rng, 9.0 * self.magnification, 4);
        let contrast = uniform(rng, 0.8, 1.6);
        let spotted = rng.random_bool(0.5);
        for nucleus in nuclei {
            let light = lognormal(rng, 0.35);
            let spots = if spotted { rng.random_range(4..16) } else { rng.random_range(0..4) };
            let mut marks: Vec<((f32, f32), f32, f32)> = Vec::new();
            for _ in 0..spots {
                marks.push((
                    nucleus.place(rng, 0.5),
                    self.magnification * uniform(rng, 1.2, 2.4),
                    uniform(rng, 0.3, 1.0),
                ));
            }
            for _ in 0..rng.random_range(1..5) {
                marks.push((nucleus.place(rng, 0.7), self.magnification * uniform(rng, 2.2, 4.2), -0.65));
            }
            let (x, centre) = (self.x, nucleus.centre);
            canvas.around(centre, nucleus.reach(), |sample, dy, dx| {
                let share = nucleus.share(dy, dx);
                // The rim is as soft as a rounded body seen from above, some pixels wide.
                let body = smooth(((1.0 - share) * nucleus.radius / (4.0 * self.magnification)).clamp(0.0, 1.0));
                if body == 0.0 {
                    return;
                }
                let (row, column) = (dy + centre.0, dx + centre.1);
                let grain = 1.0 + contrast * (chromatin[row as usize * x + column as usize] - 0.5);
                let mut level = (grain * (1.0 - 0.25 * share * share)).max(0.1);
                for &((my, mx), sigma, strength) in &marks {
                    let distance = ((row - my).powi(2) + (column - mx).powi(2)) / (sigma * sigma);
                    if distance < 12.0 {
                        level *= 1.0 + strength * (-0.5 * distance).exp();
                    }
                }
                *sample += light * body * level;
            });
        }
    }

    fn puncta(&self, canvas: &mut Canvas, cells: &[Outline], rng: &mut Pcg64) {
        for cell in cells {
            let brightness = lognormal(rng, 0.4);
            for _ in 0..rng.random_range(80..350) {
                let sigma = uniform(rng, 0.6, 1.3) * lognormal(rng, 0.3);
                let power = if rng.random_bool(0.4) { 1.0 } else { 0.5 };
                let place = cell.place(rng, power);
                canvas.spot(place, sigma, brightness * lognormal(rng, 0.7));
                // Some have neighbours.
                while rng.random_bool(0.25) {
                    let near = (place.0 + 4.0 * gaussian(rng), place.1 + 4.0 * gaussian(rng));
                    canvas.spot(near, sigma, brightness * lognormal(rng, 0.7));
                }
            }
        }
    }

    fn membranes(&self, canvas: &mut Canvas, rng: &mut Pcg64) {
        let side = uniform(rng, 34.0, 75.0) * self.magnification;
        // One cell of the tissue in each square of a grid that reaches two squares beyond the plane: no pixel has
        // nearer seeds than those of the 5×5 squares around its own.
        let (rows, columns) = (self.y as f32 / side, self.x as f32 / side);
        let (rows, columns) = (rows as usize + 6, columns as usize + 6);
        let seeds: Vec<_> = (0..rows * columns)
            .map(|i| {
                (
                    (i / columns) as f32 - 2.0 + uniform(rng, 0.08, 0.92),
                    (i % columns) as f32 - 2.0 + uniform(rng, 0.08, 0.92),
                )
            })
            .collect();
        let inside: Vec<f32> = seeds.iter().map(|_| uniform(rng, 0.02, 0.16)).collect();
        let salt = rng.random::<u64>();
        let (warp_y, warp_x) = (self.texture(rng, 0.7 * side, 2), self.texture(rng, 0.7 * side, 2));
        let glow = self.texture(rng, 0.5 * side, 3);
        let grain = self.texture(rng, 5.0, 3);
        let width = uniform(rng, 0.9, 1.6);
        for row in 0..self.y {
            for column in 0..self.x {
                let i = row * self.x + column;
                let y = row as f32 / side + 0.5 * (warp_y[i] - 0.5);
                let x = column as f32 / side + 0.5 * (warp_x[i] - 0.5);
                let (top, left) = ((y.floor() + 2.0) as usize, (x.floor() + 2.0) as usize);
                let mut nearest = [(f32::MAX, 0), (f32::MAX, 0)];
                for r in top.saturating_sub(2)..(top + 3).min(rows) {
                    for c in left.saturating_sub(2)..(left + 3).min(columns) {
                        let seed = r * columns + c;
                        let distance = (seeds[seed].0 - y).powi(2) + (seeds[seed].1 - x).powi(2);
                        if distance < nearest[0].0 {
                            nearest = [(distance, seed), nearest[0]];
                        } else if distance < nearest[1].0 {
                            nearest[1] = (distance, seed);
                        }
                    }
                }
                let [(d1, a), (d2, b)] = nearest;
                // Distance from the line halfway between the two seeds, in pixels.
                let apart = (seeds[a].0 - seeds[b].0).hypot(seeds[a].1 - seeds[b].1).max(1e-3);
                let distance = 0.5 * (d2 - d1) / apart * side;
                let contact = (a.min(b) as u64) << 32 | a.max(b) as u64;
                let light = 0.45 + 0.55 * Pcg64::seed_from_u64(salt ^ contact).random::<f32>();
                let membrane = light * (0.4 + 1.2 * glow[i]) * (-0.5 * (distance / width).powi(2)).exp();
                canvas.samples[i] += membrane + inside[a] * (0.5 + grain[i]);
            }
        }
    }

    /// Light from out of focus: a wide blur of what is in focus, the cells' bodies, and a slow background.
    fn add_haze(&self, canvas: &mut Canvas, cells: &[Outline], rng: &mut Pcg64) {
        let mut haze = Canvas { samples: canvas.samples.clone(), ..*canvas };
        haze.blur(uniform(rng, 8.0, 22.0) * self.magnification);
        haze.scale_to(uniform(rng, 0.05, 0.3));
        let mut bodies = Canvas::new(self.y, self.x);
        for cell in cells {
            bodies.around(cell.centre, cell.reach(), |sample, dy, dx| {
                *sample += (1.0 - cell.share(dy, dx)).max(0.0).sqrt();
            });
        }
        bodies.blur(4.0 * self.magnification);
        bodies.scale_to(uniform(rng, 0.02, 0.12));
        let slow = self.texture(rng, 160.0 * self.magnification, 2);
        let background = uniform(rng, 0.0, 0.05);
        for (i, sample) in canvas.samples.iter_mut().enumerate() {
            *sample += haze.samples[i] + bodies.samples[i] + background * slow[i];
        }
    }

    /// Smooth random texture, 0..1 and about 0.5 on average; the coarsest grains are `grain` pixels wide, each of
    /// the `octaves` has half the grain and half the contrast of the one before.
    fn texture(&self, rng: &mut Pcg64, grain: f32, octaves: u32) -> Vec<f32> {
        let mut texture = vec![0.0; self.y * self.x];
        let total: f32 = (0..octaves).map(|k| 0.5f32.powi(k as i32)).sum();
        for octave in 0..octaves {
            let share = 0.5f32.powi(octave as i32);
            let grain = (grain * share).max(1.0);
            let columns = (self.x as f32 / grain) as usize + 3;
            let rows = (self.y as f32 / grain) as usize + 3;
            let lattice: Vec<f32> = (0..rows * columns).map(|_| rng.random()).collect();
            let shift: (f32, f32) = (rng.random(), rng.random());
            for row in 0..self.y {
                let v = row as f32 / grain + shift.0;
                let (top, down) = (v as usize, smooth(v.fract()));
                for column in 0..self.x {
                    let u = column as f32 / grain + shift.1;
                    let (left, right) = (u as usize, smooth(u.fract()));
                    let line = |r: usize| {
                        let at = r * columns + left;
                        lattice[at] + right * (lattice[at + 1] - lattice[at])
                    };
                    let value = line(top) + down * (line(top + 1) - line(top));
                    texture[row * self.x + column] += share / total * value;
                }
            }
        }
        texture
    }
}

/// 0 to 1 with flat ends.
fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

pub(super) fn uniform(rng: &mut Pcg64, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

pub(super) fn gaussian(rng: &mut Pcg64) -> f32 {
    StandardNormal.sample(rng)
}

/// Around 1, with this standard deviation of the logarithm.
pub(super) fn lognormal(rng: &mut (impl Rng + ?Sized), sigma: f32) -> f32 {
    LogNormal::new(0.0, sigma).map_or(1.0, |distribution| distribution.sample(rng))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Camera;

    #[test]
    fn one_seed_gives_one_picture() {
        let camera = Camera { em_gain: Some(100.0), ..Camera::default() };
        for kind in Phantom::ALL {
            let clean = phantom(kind, 61, 47, 9);
            assert_eq!(clean, phantom(kind, 61, 47, 9), "{kind:?}");
            assert_ne!(clean, phantom(kind, 61, 47, 10), "{kind:?}");
            let noisy = camera.capture(&clean.samples, 3).unwrap();
            assert_eq!(noisy, camera.capture(&clean.samples, 3).unwrap());
            assert_ne!(noisy, camera.capture(&clean.samples, 4).unwrap());
        }
    }

    #[test]
    fn phantoms_of_any_size_are_within_range() {
        for kind in Phantom::ALL {
            for (y, x) in [(1, 1), (1, 33), (31, 1), (7, 5), (65, 129), (200, 130), (0, 0), (0, 5)] {
                for seed in 0..4 {
                    let image = phantom(kind, y, x, seed);
                    assert_eq!((image.info.shape.y, image.info.shape.x, image.samples.len()), (y, x, y * x));
                    assert!(image.samples.iter().all(|s| (0.0..=1.0).contains(s)), "{kind:?} {y}x{x}");
                    if y * x > 8000 {
                        assert_eq!(image.samples.iter().copied().fold(0.0, f32::max), 1.0, "{kind:?} {y}x{x}");
                        let mean = image.samples.iter().sum::<f32>() / (y * x) as f32;
                        let variance = image.samples.iter().map(|s| (s - mean).powi(2)).sum::<f32>() / (y * x) as f32;
                        assert!(variance > 1e-4, "{kind:?} {y}x{x} shows nothing: {variance}");
                    }
                }
            }
        }
    }

    /// `MDR_PICTURES=DIR cargo test simulate -- --ignored --nocapture`
    #[test]
    #[ignore = "leaves pictures to look at, and prints times"]
    fn pictures() {
        let folder = std::env::var("MDR_PICTURES").unwrap();
        for kind in Phantom::ALL {
            let mut images = Vec::new();
            for seed in 0..6 {
                let start = std::time::Instant::now();
                images.push(phantom(kind, 400, 400, seed));
                println!("{kind:?} {:?}", start.elapsed());
            }
            let panels: Vec<_> = images
                .iter()
                .map(|i| crate::montage::Panel {
                    samples: &i.samples,
                    shape: (400, 400),
                    display: (0.0, 1.0),
                    caption: format!("{kind:?}"),
                })
                .collect();
            let rows: Vec<_> = panels.chunks(3).collect();
            crate::montage::montage(&rows, format!("{folder}/{kind:?}.png")).unwrap();
        }
        let flat = phantom(Phantom::Filaments, 512, 512, 1);
        for photons in [5.0, 50.0, 500.0, 5000.0] {
            let start = std::time::Instant::now();
            Camera { photons, ..Camera::default() }.capture(&flat.samples, 1).unwrap();
            println!("{photons} photons, 512x512: {:?}", start.elapsed());
        }
    }
}
