//! Nothing → phantom, and phantom → degraded image: for `mdr demo`, for tests, and for training material.
//!
//! [`phantom`] draws pictures that look like fluorescence micrographs, [`gaussian_blur`] is the optics, [`Camera`]
//! the photons and the electronics, in physical units. Everything is drawn from a seeded PCG generator: one seed
//! gives one picture on one platform; between platforms the last bit of `exp`, `ln` or `sin` may differ, and with
//! it a picture. Structures are drawn in pixels, not in µm, at about the sampling that optics demand (nothing is
//! sharper than a Gaussian of about one pixel), since networks see pixels.

use crate::{Error, Image, Result};
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Gamma, LogNormal, Poisson, StandardNormal};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use std::f32::consts::TAU;

/// Mean count from which [`Camera`] draws photons from the normal instead of the Poisson distribution: the
/// skewness, 1/√1000, is 3 % there.
const NORMAL_FROM: f64 = 1000.0;

/// A camera, and how bright the specimen is in its eyes: turns intensities into grey values (ADU).
///
/// A pixel of intensity v receives Poisson(`photons` · v + `background`) detected photons, that is electrons;
/// negative v counts as 0. The electron multiplier, where there is one, makes Gamma(electrons, `em_gain`) of them.
/// Read noise is added, then `offset + gain · electrons` is rounded and limited to 0..2^`bits` − 1.
///
/// ```
/// use mdr::simulate::{Camera, Phantom, phantom};
///
/// let clean = phantom(Phantom::Filaments, 64, 64, 1);
/// let camera = Camera { photons: 30.0, ..Camera::default() };
/// let noisy = camera.capture(&clean.samples, 2)?;
/// assert_eq!(noisy.len(), clean.samples.len());
/// # Ok::<(), mdr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Camera {
    /// Detected photons (electrons) per pixel where the intensity is 1.
    pub photons: f64,
    /// Photons per pixel that are added everywhere: stray light, autofluorescence, dark current.
    pub background: f64,
    /// Standard deviation of the read noise in electrons; after the multiplier, where there is one.
    pub read_noise_electrons: f64,
    /// Mean factor of the electron multiplier of an EMCCD; it doubles the variance of the photons (excess noise).
    /// `None`: no multiplier (CCD, sCMOS).
    pub em_gain: Option<f64>,
    /// Grey values (ADU) per electron, after the multiplier.
    pub gain: f64,
    /// Grey value of no electron.
    pub offset: f64,
    /// Bits of the converter, 1 to 24: values are rounded, and saturate at 2^bits − 1. `None`: neither.
    pub bits: Option<u32>,
}

impl Default for Camera {
    /// A 16-bit sCMOS camera in dim light: 100 photons, background 5, read noise 1.6 e⁻, 2 ADU per electron over
    /// an offset of 100.
    fn default() -> Self {
        Self {
            photons: 100.0,
            background: 5.0,
            read_noise_electrons: 1.6,
            em_gain: None,
            gain: 2.0,
            offset: 100.0,
            bits: Some(16),
        }
    }
}

impl Camera {
    /// What the camera makes of a plane (or of any number of pixels), in ADU.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where an intensity is NaN or infinite, or the camera makes no sense.
    pub fn capture(&self, intensities: &[f32], seed: u64) -> Result<Vec<f32>> {
        self.check(intensities)?;
        let mut rng = Pcg64::seed_from_u64(seed);
        let capture = |&intensity: &f32| {
            let mut electrons = poisson(self.electrons(intensity), &mut rng);
            if let Some(em_gain) = self.em_gain {
                electrons = Gamma::new(electrons, em_gain).map_or(0.0, |gamma| gamma.sample(&mut rng));
            }
            if self.read_noise_electrons > 0.0 {
                electrons += self.read_noise_electrons * normal(&mut rng);
            }
            self.convert(electrons) as f32
        };
        Ok(intensities.iter().map(capture).collect())
    }

    /// The grey values that [`Camera::capture`] would have on average, without saturation and rounding: the
    /// noise-free reference on the same scale.
    ///
    /// # Errors
    /// As [`Camera::capture`].
    pub fn expected(&self, intensities: &[f32]) -> Result<Vec<f32>> {
        self.check(intensities)?;
        let em_gain = self.em_gain.unwrap_or(1.0);
        let expected = |&intensity: &f32| (self.offset + self.gain * em_gain * self.electrons(intensity)) as f32;
        Ok(intensities.iter().map(expected).collect())
    }

    /// Mean number of electrons at an intensity.
    fn electrons(&self, intensity: f32) -> f64 {
        self.photons * f64::from(intensity.max(0.0)) + self.background
    }

    fn convert(&self, electrons: f64) -> f64 {
        let value = self.offset + self.gain * electrons;
        match self.bits {
            Some(bits) => value.round().clamp(0.0, f64::from((1u32 << bits) - 1)),
            None => value,
        }
    }

    fn check(&self, intensities: &[f32]) -> Result<()> {
        let invalid = |what: &str, value: f64| Err(Error::InvalidOption(format!("camera: {what}, found {value}")));
        for (name, value) in [
            ("photons", self.photons),
            ("background", self.background),
            ("read_noise_electrons", self.read_noise_electrons),
            ("offset", self.offset),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(&format!("{name} must be 0 or more"), value);
            }
        }
        for (name, value) in [("gain", self.gain), ("em_gain", self.em_gain.unwrap_or(1.0))] {
            if !(value > 0.0 && value.is_finite()) {
                return invalid(&format!("{name} must be above 0"), value);
            }
        }
        if let Some(bits) = self.bits.filter(|bits| !(1..=24).contains(bits)) {
            return invalid("bits must be 1 to 24", bits.into());
        }
        match intensities.iter().find(|v| !v.is_finite()) {
            Some(&v) => invalid("intensities must be finite", v.into()),
            None => Ok(()),
        }
    }
}

/// A count with this mean; exact below [`NORMAL_FROM`].
fn poisson(mean: f64, rng: &mut Pcg64) -> f64 {
    if mean >= NORMAL_FROM {
        return (mean + mean.sqrt() * normal(rng)).round().max(0.0);
    }
    // Refuses only a mean of 0, whose count is 0.
    Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(rng))
}

fn normal(rng: &mut Pcg64) -> f64 {
    StandardNormal.sample(rng)
}

/// Convolves a plane of `y` rows and `x` columns with a Gaussian, such as the centre of a point spread function;
/// `sigma_px` is its standard deviation along Y and X in pixels, 0 for none. The Gaussian is cut at 4 sigma; beyond
/// its border the plane goes on as its mirror image (scipy's `gaussian_filter` with its defaults).
///
/// # Errors
/// [`Error::ShapeMismatch`] where there are not `y * x` samples, [`Error::InvalidOption`] where a sigma is not in
/// 0..=1000.
pub fn gaussian_blur(plane: &[f32], (y, x): (usize, usize), sigma_px: (f64, f64)) -> Result<Vec<f32>> {
    if y.checked_mul(x) != Some(plane.len()) {
        return Err(Error::ShapeMismatch { expected: format!("{y}x{x} samples"), found: plane.len().to_string() });
    }
    for sigma in [sigma_px.0, sigma_px.1] {
        if !(0.0..=1000.0).contains(&sigma) {
            return Err(Error::InvalidOption(format!("blur: expected a sigma of 0 to 1000 pixels, found {sigma}")));
        }
    }
    if plane.is_empty() {
        return Ok(Vec::new());
    }
    let (along_y, along_x) = (gaussian_weights(sigma_px.0), gaussian_weights(sigma_px.1));
    let radius = along_x.len() / 2;
    let mut rows = vec![0.0; plane.len()];
    let mut padded = vec![0.0; x + 2 * radius];
    for (row, out) in plane.chunks_exact(x).zip(rows.chunks_exact_mut(x)) {
        for (i, p) in padded.iter_mut().enumerate() {
            *p = row[mirrored(i, radius, x)];
        }
        for (k, &weight) in along_x.iter().enumerate() {
            add_weighted(out, &padded[k..k + x], weight);
        }
    }
    let mut blurred = vec![0.0; plane.len()];
    for (row, out) in blurred.chunks_exact_mut(x).enumerate() {
        for (k, &weight) in along_y.iter().enumerate() {
            let from = mirrored(row + k, along_y.len() / 2, y);
            add_weighted(out, &rows[from * x..][..x], weight);
        }
    }
    Ok(blurred)
}

fn gaussian_weights(sigma: f64) -> Vec<f32> {
    let radius = (4.0 * sigma + 0.5) as i32;
    let weights: Vec<f64> = (-radius..=radius).map(|i| gauss(f64::from(i), sigma.max(1e-9))).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| (w / sum) as f32).collect()
}

fn gauss(distance: f64, sigma: f64) -> f64 {
    (-0.5 * (distance / sigma).powi(2)).exp()
}

/// Where sample `i - radius` of an axis of `length` samples is found, mirrored at both borders as often as needed.
fn mirrored(i: usize, radius: usize, length: usize) -> usize {
    let around = (i as i64 - radius as i64).rem_euclid(2 * length as i64) as usize;
    around.min(2 * length - 1 - around)
}

fn add_weighted(sum: &mut [f32], values: &[f32], weight: f32) {
    for (s, v) in sum.iter_mut().zip(values) {
        *s += weight * v;
    }
}

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

fn uniform(rng: &mut Pcg64, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

fn gaussian(rng: &mut Pcg64) -> f32 {
    StandardNormal.sample(rng)
}

/// Around 1, with this standard deviation of the logarithm.
fn lognormal(rng: &mut (impl Rng + ?Sized), sigma: f32) -> f32 {
    LogNormal::new(0.0, sigma).map_or(1.0, |distribution| distribution.sample(rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: usize = 200_000;

    fn mean_and_variance(samples: &[f32]) -> (f64, f64) {
        let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / samples.len() as f64;
        (mean, samples.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / (samples.len() - 1) as f64)
    }

    /// Mean and variance of a flat field within five standard errors of theory: gain² (λ + σ²), twice λ behind an
    /// electron multiplier. Means on both sides of the switch to the normal distribution.
    #[test]
    fn noise_has_the_mean_and_variance_of_theory() {
        for em_gain in [None, Some(30.0)] {
            for photons in [0.0, 0.3, 9.0, 40.0, 990.0, 1010.0, 30_000.0] {
                let camera = Camera {
                    photons,
                    background: 2.0,
                    read_noise_electrons: 3.0,
                    em_gain,
                    gain: 1.7,
                    offset: 50.0,
                    bits: None,
                };
                let flat = vec![0.5; FLAT];
                let (mean, variance) = mean_and_variance(&camera.capture(&flat, 5).unwrap());
                let electrons = 0.5 * photons + 2.0;
                let (factor, excess) = em_gain.map_or((1.0, 1.0), |g| (g, 2.0));
                let expected_variance = 1.7f64.powi(2) * (excess * factor * factor * electrons + 9.0);
                let expected_mean = 50.0 + 1.7 * factor * electrons;
                assert!((f64::from(camera.expected(&flat).unwrap()[0]) - expected_mean).abs() < 1e-2);
                let error = (expected_variance / FLAT as f64).sqrt();
                assert!((mean - expected_mean).abs() < 5.0 * error, "{camera:?}: mean {mean}, not {expected_mean}");
                // Few photons have a heavier tail than the normal distribution: twice to six times its error.
                let error = expected_variance * (2.0 / FLAT as f64).sqrt() * if electrons < 20.0 { 3.0 } else { 1.0 };
                assert!(
                    (variance - expected_variance).abs() < 5.0 * error,
                    "{camera:?}: variance {variance}, not {expected_variance}"
                );
            }
        }
    }

    /// Shares of 0, 1, 2, … photons at a mean of 1.5 follow e^−λ λ^k / k!.
    #[test]
    fn few_photons_are_poisson_distributed() {
        let camera = Camera {
            photons: 1.5,
            background: 0.0,
            read_noise_electrons: 0.0,
            gain: 1.0,
            offset: 0.0,
            ..Camera::default()
        };
        let counts = camera.capture(&vec![1.0; FLAT], 8).unwrap();
        let mut share = (-1.5f64).exp();
        for k in 0..6 {
            let found = counts.iter().filter(|&&c| c == k as f32).count() as f64 / FLAT as f64;
            assert!((found - share).abs() < 5.0 * (share / FLAT as f64).sqrt(), "{k}: {found}, not {share}");
            share *= 1.5 / f64::from(k + 1);
        }
    }

    #[test]
    fn converter_rounds_and_saturates() {
        let camera = Camera { photons: 100.0, gain: 3.0, bits: Some(8), ..Camera::default() };
        let grey = camera.capture(&(0..4000).map(|i| i as f32 / 2000.0).collect::<Vec<_>>(), 1).unwrap();
        assert!(grey.iter().all(|g| g.fract() == 0.0 && (0.0..=255.0).contains(g)));
        assert!(grey[3000..].iter().all(|&g| g == 255.0) && grey[..10].iter().all(|&g| g < 255.0));
        let dark = Camera { photons: 0.0, background: 0.0, offset: 0.0, ..camera }.capture(&[1.0; 500], 1).unwrap();
        assert!(dark.contains(&0.0) && dark.iter().all(|&g| g >= 0.0), "read noise below 0 is cut off");
    }

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
                        let (_, variance) = mean_and_variance(&image.samples);
                        assert!(variance > 1e-4, "{kind:?} {y}x{x} shows nothing: {variance}");
                    }
                }
            }
        }
    }

    #[test]
    fn blur_of_a_point_is_a_gaussian() {
        let (y, x) = (41, 37);
        let mut point = vec![0.0; y * x];
        point[20 * x + 18] = 1.0;
        let blurred = gaussian_blur(&point, (y, x), (2.0, 1.25)).unwrap();
        for (i, &found) in blurred.iter().enumerate() {
            let (dy, dx) = ((i / x) as f64 - 20.0, (i % x) as f64 - 18.0);
            let expected = gauss(dy, 2.0) * gauss(dx, 1.25) / (f64::from(TAU) * 2.0 * 1.25);
            assert!((f64::from(found) - expected).abs() < 1e-4 * 0.07, "{dy} {dx}: {found}, not {expected}");
        }
        assert_eq!(gaussian_blur(&point, (y, x), (0.0, 0.0)).unwrap(), point);
    }

    /// Mirrored borders keep the sum of any plane, however narrow.
    #[test]
    fn blur_keeps_the_light() {
        for (y, x) in [(1, 1), (1, 9), (2, 3), (5, 1), (16, 11)] {
            let plane: Vec<f32> = (0..y * x).map(|i| (i * 37 % 11) as f32).collect();
            let blurred = gaussian_blur(&plane, (y, x), (3.0, 6.0)).unwrap();
            let (before, after) = (plane.iter().sum::<f32>(), blurred.iter().sum::<f32>());
            assert!((before - after).abs() <= 1e-4 * before, "{y}x{x}: {before}, {after}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = Camera::default();
        for camera in [
            Camera { photons: -1.0, ..good },
            Camera { photons: f64::INFINITY, ..good },
            Camera { background: f64::NAN, ..good },
            Camera { read_noise_electrons: -0.1, ..good },
            Camera { gain: 0.0, ..good },
            Camera { em_gain: Some(0.0), ..good },
            Camera { offset: f64::NAN, ..good },
            Camera { bits: Some(0), ..good },
            Camera { bits: Some(32), ..good },
        ] {
            assert!(matches!(camera.capture(&[0.5], 1), Err(Error::InvalidOption(_))), "{camera:?}");
        }
        assert!(good.capture(&[0.5, f32::NAN], 1).is_err() && good.capture(&[f32::INFINITY], 1).is_err());
        assert!(good.capture(&[], 1).unwrap().is_empty() && good.capture(&[f32::MAX, -5.0], 1).is_ok());
        assert!(gaussian_blur(&[1.0; 6], (2, 2), (1.0, 1.0)).is_err());
        assert!(gaussian_blur(&[1.0; 6], (2, 3), (f64::NAN, 1.0)).is_err());
        assert!(gaussian_blur(&[1.0; 6], (2, 3), (1.0, 1e9)).is_err());
        assert!(gaussian_blur(&[], (0, 3), (1.0, 1.0)).unwrap().is_empty());
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
