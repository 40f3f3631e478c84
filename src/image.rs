//! What an image is inside the engine: f32 samples in planes of Y rows and X columns, numbered by time point,
//! channel and Z. Every image has the five axes T, C, Z, Y, X in this order; an axis that the source lacks has
//! length 1, and [`Axes`] remembers which ones were there. One fixed order keeps permutations at the border
//! (files, C buffers) and out of the pipeline.
//!
//! [`PlaneSource`] and [`PlaneSink`] are how planes enter and leave the pipeline, from memory ([`Image`]) or from
//! a file (`tiff_io`), so that a stack larger than the memory can be restored.

use crate::zeros::zeros;
use crate::{Error, Result};
use std::fmt;

/// Axes of an image, in storage order: distinct letters out of `TCZYX`, the last two being `YX`.
#[derive(Clone, PartialEq, Eq)]
pub struct Axes(String);

impl Axes {
    /// Parses axes such as `"YX"`, `"ZYX"` or `"TCZYX"`; lower case is accepted.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an unknown or repeated letter, or where the string does not end in `YX`.
    pub fn parse(text: &str) -> Result<Self> {
        let upper = text.to_ascii_uppercase();
        let distinct = upper.chars().enumerate().all(|(i, c)| "TCZYX".contains(c) && !upper[..i].contains(c));
        if !distinct || !upper.ends_with("YX") {
            return Err(Error::InvalidOption(format!(
                "axes {text:?}: expected distinct letters out of TCZYX that end in YX, such as YX, ZYX or TCZYX"
            )));
        }
        Ok(Self(upper))
    }

    /// The letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the letter `axis` is among them.
    pub fn contains(&self, axis: char) -> bool {
        self.0.contains(axis)
    }

    /// The same axes less one letter.
    pub fn without(&self, axis: char) -> Self {
        Self(self.0.replace(axis, ""))
    }

    /// The same axes in the engine's order, `TCZYX`.
    pub fn sorted(&self) -> Self {
        Self("TCZYX".chars().filter(|&c| self.contains(c)).collect())
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Axes({})", self.0)
    }
}

/// Sample type of a source or a file. Inside the engine every sample is f32: 32-bit integers and 64-bit floats
/// lose what exceeds 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PixelType {
    U8,
    U16,
    U32,
    I8,
    I16,
    I32,
    F32,
    F64,
}

impl PixelType {
    /// Smallest and largest value of an integer type, `None` for floats.
    pub fn range(self) -> Option<(f64, f64)> {
        match self {
            Self::U8 => Some((0.0, u8::MAX.into())),
            Self::U16 => Some((0.0, u16::MAX.into())),
            Self::U32 => Some((0.0, u32::MAX.into())),
            Self::I8 => Some((i8::MIN.into(), i8::MAX.into())),
            Self::I16 => Some((i16::MIN.into(), i16::MAX.into())),
            Self::I32 => Some((i32::MIN.into(), i32::MAX.into())),
            Self::F32 | Self::F64 => None,
        }
    }

    /// Bytes a sample takes.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A type in which samples are stored in files and buffers. The one place where the engine's f32 become integers.
pub trait Sample {
    /// The stored value for a sample of the engine: integers are rounded, halves away from zero, and clamped, NaN
    /// becomes 0; floats keep the value.
    fn from_f32(sample: f32) -> Self;
}

macro_rules! integers {
    ($($integer:ty)*) => {
        $(impl Sample for $integer {
            fn from_f32(sample: f32) -> Self {
                sample.round() as Self // `as` clamps and makes NaN 0
            }
        })*
    };
}

integers!(u8 u16 u32 i8 i16 i32);

impl Sample for f32 {
    fn from_f32(sample: f32) -> Self {
        sample
    }
}

impl Sample for f64 {
    fn from_f32(sample: f32) -> Self {
        sample.into()
    }
}

/// Lengths of the five axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Shape {
    pub t: usize,
    pub c: usize,
    pub z: usize,
    pub y: usize,
    pub x: usize,
}

impl Shape {
    /// One plane of `y` rows and `x` columns.
    pub fn plane(y: usize, x: usize) -> Self {
        Self { t: 1, c: 1, z: 1, y, x }
    }

    /// Samples of one plane.
    pub fn plane_len(&self) -> usize {
        self.y * self.x
    }

    /// Number of planes.
    pub fn planes(&self) -> usize {
        self.t * self.c * self.z
    }

    /// Samples of the whole image.
    pub fn len(&self) -> usize {
        self.planes() * self.plane_len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the axis with this letter out of `TCZYX`.
    pub fn axis(&self, letter: char) -> usize {
        match letter {
            'T' => self.t,
            'C' => self.c,
            'Z' => self.z,
            'Y' => self.y,
            _ => self.x,
        }
    }
}

/// Which plane of an image: time point, channel, Z, each from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct PlaneIndex {
    pub t: usize,
    pub c: usize,
    pub z: usize,
}

/// Everything about an image but its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInfo {
    /// Axes the source has, in the order of the source.
    pub axes: Axes,
    /// Lengths in the engine's order; 1 for an axis that `axes` lacks.
    pub shape: Shape,
    /// Sample type of the source.
    pub pixel_type: PixelType,
    /// Pixel size along X in µm, where known; along Y too, unless `pixel_size_y_um` or `extra.y_unit` says otherwise.
    pub pixel_size_um: Option<f64>,
    /// Pixel size along Y in µm, where it is known and differs from that along X: a reslice, a line scan.
    pub pixel_size_y_um: Option<f64>,
    /// Distance of neighbouring Z planes in µm, where known.
    pub z_step_um: Option<f64>,
    /// Time between frames in seconds, where known.
    pub frame_interval_s: Option<f64>,
    /// Free text for the provenance note; empty in a source without one.
    pub provenance: String,
    /// Metadata that is carried from the source file to the result.
    pub extra: Extra,
}

/// Metadata of a source file that the engine makes no use of, but keeps, as far as it holds for the result's grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// The OME-XML of the source, where it had one: the result gets one too.
    pub ome_xml: Option<String>,
    /// ImageJ's `key=value` lines that are kept: `mode`, `loop`, and the like.
    pub imagej: Vec<(String, String)>,
    /// ImageJ's binary metadata (tags 50838 counts and 50839 data): slice labels, display ranges, lookup tables,
    /// overlays, Info; bytes as stored, with the byte order of the source.
    pub imagej_metadata: Option<ImageJMetadata>,
    /// Whether small numbers are shown bright (WhiteIsZero, ImageJ's inverted lookup table).
    pub white_is_zero: bool,
    /// Pixels per unit along Y and that unit, where it is no length: the rows of a line scan follow each other in time.
    pub y_unit: Option<(f64, String)>,
    /// ImageJ's calibration in a unit that is no length that is known, such as `pixel`, or in none.
    pub other_grid: Option<OtherGrid>,
}

/// Sizes in a unit of which nothing is known: what they say is the aspect of voxels.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherGrid {
    /// Pixels per unit along Y and X.
    pub pixels_per_unit: [f64; 2],
    /// Units from one Z plane to the next.
    pub spacing: Option<f64>,
    /// ImageJ's lines that name units.
    pub units: Vec<(String, String)>,
}

/// ImageJ's tags 50838 and 50839.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageJMetadata {
    /// Tag 50838: byte counts.
    pub counts: Vec<u32>,
    /// Tag 50839.
    pub data: Vec<u8>,
    /// Whether `data` is big-endian.
    pub big_endian: bool,
}

impl ImageInfo {
    /// An image of this shape with nothing else known; axes of length 1 are left out, but Y and X.
    pub fn new(shape: Shape, pixel_type: PixelType) -> Self {
        let axes = "TCZYX".chars().filter(|&a| "YX".contains(a) || shape.axis(a) > 1).collect();
        Self {
            axes: Axes(axes),
            shape,
            pixel_type,
            pixel_size_um: None,
            pixel_size_y_um: None,
            z_step_um: None,
            frame_interval_s: None,
            provenance: String::new(),
            extra: Extra::default(),
        }
    }

    /// Pixel size along Y in µm, where known.
    pub fn pixel_height_um(&self) -> Option<f64> {
        self.pixel_size_y_um.or(self.pixel_size_um).filter(|_| self.extra.y_unit.is_none())
    }
}

/// Where planes come from.
pub trait PlaneSource {
    /// What the image is.
    fn info(&self) -> &ImageInfo;

    /// Fills `samples` (Y·X values, rows first) with one plane.
    ///
    /// # Errors
    /// Where the file cannot be read or is damaged.
    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()>;
}

/// Where planes go.
pub trait PlaneSink {
    /// Takes one plane (Y·X values, rows first). Planes arrive in the order T, Z, C, C running fastest: the order
    /// of ImageJ's hyperstacks.
    ///
    /// # Errors
    /// Where the file cannot be written.
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()>;
}

/// An image in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// What it is.
    pub info: ImageInfo,
    /// Samples in the order T, C, Z, Y, X, X running fastest.
    pub samples: Vec<f32>,
}

impl Image {
    /// Joins samples, in the order T, C, Z, Y, X, with their description.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where the number of samples is not that of the shape.
    pub fn new(info: ImageInfo, samples: Vec<f32>) -> Result<Self> {
        if samples.len() != info.shape.len() {
            return Err(Error::ShapeMismatch {
                expected: format!("{} samples for {:?}", info.shape.len(), info.shape),
                found: format!("{}", samples.len()),
            });
        }
        Ok(Self { info, samples })
    }

    /// A plane of f32 samples with nothing else known.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where the number of samples is not `y * x`.
    pub fn from_plane(y: usize, x: usize, samples: Vec<f32>) -> Result<Self> {
        Self::new(ImageInfo::new(Shape::plane(y, x), PixelType::F32), samples)
    }

    /// An image of zeros.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where the memory does not hold it.
    pub fn zeros(info: ImageInfo) -> Result<Self> {
        let samples = zeros(info.shape.len()).map_err(|_| {
            Error::InvalidOption(format!("{:?} does not fit into the memory as a whole: cut out a part", info.shape))
        })?;
        Ok(Self { info, samples })
    }

    /// Reads a whole source into memory.
    ///
    /// # Errors
    /// Those of the source; [`Error::InvalidOption`] where the memory does not hold it.
    pub fn read(source: &mut dyn PlaneSource) -> Result<Self> {
        let mut image = Self::zeros(source.info().clone())?;
        for t in 0..image.info.shape.t {
            for z in 0..image.info.shape.z {
                for c in 0..image.info.shape.c {
                    let index = PlaneIndex { t, c, z };
                    let range = image.range(index);
                    source.read_plane(index, &mut image.samples[range])?;
                }
            }
        }
        Ok(image)
    }

    /// A source of these planes that leaves the image as it is.
    pub fn as_source(&self) -> impl PlaneSource + '_ {
        Borrowed(self)
    }

    /// The samples as an array with the axes T, C, Z, Y, X.
    pub fn view(&self) -> ndarray::ArrayView5<'_, f32> {
        let Shape { t, c, z, y, x } = self.info.shape;
        ndarray::ArrayView::from_shape((t, c, z, y, x), &self.samples).expect("an image has the samples of its shape")
    }

    /// Samples of one plane.
    pub fn plane(&self, index: PlaneIndex) -> &[f32] {
        &self.samples[self.range(index)]
    }

    fn range(&self, PlaneIndex { t, c, z }: PlaneIndex) -> std::ops::Range<usize> {
        let Shape { c: channels, z: depth, .. } = self.info.shape;
        let len = self.info.shape.plane_len();
        let plane = (t * channels + c) * depth + z;
        plane * len..(plane + 1) * len
    }
}

struct Borrowed<'a>(&'a Image);

impl PlaneSource for Borrowed<'_> {
    fn info(&self) -> &ImageInfo {
        &self.0.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        samples.copy_from_slice(self.0.plane(index));
        Ok(())
    }
}

impl PlaneSink for Image {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        let range = self.range(index);
        self.samples[range].copy_from_slice(samples);
        Ok(())
    }
}
