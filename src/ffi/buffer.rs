//! The caller's pixel buffers ⇄ planes: any axis order and strides on the way in, the same axis order without gaps
//! on the way out.
//!
//! Planes are read and written one at a time, straight from and to the caller's memory: there is no copy of the
//! whole image. Everything about a buffer (overflow, alignment, extent) is checked once, when it is described;
//! after that reading and writing are plain loops.

use super::guard::{Failure, array, pointer};
use super::types::{MdrPixelType, MdrStatus};
use crate::image::Sample;
use crate::{Axes, Error, ImageInfo, PixelType, PlaneIndex, PlaneSink, PlaneSource, Result, Shape};
use std::ffi::c_void;
use std::ops::Range;

/// Axes in the caller's order with their lengths.
pub(super) struct Grid {
    letters: Vec<char>,
    lengths: Vec<usize>,
}

impl Grid {
    /// Distinct letters out of `TCZYX`, Y and X among them, in any order; no length is 0 and the samples can be
    /// counted.
    ///
    /// # Safety
    /// `shape` is NULL, misaligned or leads to as many values as `axes` has letters.
    pub unsafe fn new(axes: &str, shape: *const usize) -> std::result::Result<Self, Failure> {
        let letters: Vec<char> = axes.to_ascii_uppercase().chars().collect();
        let distinct = letters.iter().enumerate().all(|(i, c)| "TCZYX".contains(*c) && !letters[..i].contains(c));
        if !distinct || !letters.contains(&'Y') || !letters.contains(&'X') {
            let message = format!("axes {axes:?}: expected distinct letters out of TCZYX with Y and X among them");
            return Err(Failure::argument(message));
        }
        // SAFETY: the caller's promise.
        let lengths = unsafe { array(shape, letters.len(), "shape") }?.to_vec();
        if let Some(i) = lengths.iter().position(|&length| length == 0) {
            return Err(Failure::argument(format!("shape: the length of {} is 0", letters[i])));
        }
        let grid = Self { letters, lengths };
        grid.len().map(|_| grid)
    }

    /// Number of samples; that many f32 fit the address space.
    pub fn len(&self) -> std::result::Result<usize, Failure> {
        let len = self.lengths.iter().try_fold(1_usize, |len, &length| len.checked_mul(length));
        len.filter(|&len| len <= isize::MAX as usize / size_of::<f32>()).ok_or_else(|| {
            Failure::argument(format!("shape: the product of {:?} exceeds the address space", self.lengths))
        })
    }

    pub fn letters(&self) -> String {
        self.letters.iter().collect()
    }

    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The engine's description of an image on this grid.
    pub fn info(&self, pixel_type: PixelType) -> Result<ImageInfo> {
        let axis = |letter| self.letters.iter().position(|&l| l == letter).map_or(1, |i| self.lengths[i]);
        let shape = Shape { t: axis('T'), c: axis('C'), z: axis('Z'), y: axis('Y'), x: axis('X') };
        let sorted: String = "TCZYX".chars().filter(|c| self.letters.contains(c)).collect();
        Ok(ImageInfo { axes: Axes::parse(&sorted)?, ..ImageInfo::new(shape, pixel_type) })
    }

    /// The grid of a result, with this one's axes.
    pub fn of_result(&self, result: &ImageInfo) -> std::result::Result<Self, Failure> {
        // A network with several output channels makes an axis out of one that the input has not.
        for letter in "TCZ".chars() {
            let length = result.shape.axis(letter);
            if !self.letters.contains(&letter) && length != 1 {
                return Err(Failure {
                    status: MdrStatus::ShapeMismatch,
                    message: format!(
                        "the result has {length} along {letter}, which axes {:?} lack; add {letter} to the axes with \
                         length 1",
                        self.letters()
                    ),
                });
            }
        }
        let lengths = self.letters.iter().map(|&letter| result.shape.axis(letter)).collect();
        let grid = Self { letters: self.letters.clone(), lengths };
        grid.len().map(|_| grid)
    }

    /// Strides, in samples, of a buffer without gaps, the last axis running fastest.
    fn dense_strides(&self) -> Vec<i64> {
        let mut stride = 1;
        let mut strides = vec![0; self.lengths.len()];
        for (slot, &length) in strides.iter_mut().zip(&self.lengths).rev() {
            *slot = stride;
            stride *= length as i64; // `Grid::len` fits an isize
        }
        strides
    }
}

/// Samples of one type at any strides, checked to lie inside the address space.
pub(super) struct Buffer {
    start: *mut u8,
    pixel_type: MdrPixelType,
    info: ImageInfo,
    /// In samples, for T, C, Z, Y, X; 0 for an axis that the caller's buffer lacks.
    strides: [isize; 5],
    /// Addresses from the first byte to behind the last.
    extent: Range<usize>,
}

impl Buffer {
    /// Describes the caller's buffer without touching it; `strides` of `None` means without gaps.
    pub fn new(
        start: *const c_void,
        pixel_type: MdrPixelType,
        grid: &Grid,
        strides: Option<&[i64]>,
        name: &str,
    ) -> std::result::Result<Self, Failure> {
        let bytes = match pixel_type {
            MdrPixelType::U8 => pointer(start.cast::<u8>(), name).map(|_| size_of::<u8>()),
            MdrPixelType::U16 => pointer(start.cast::<u16>(), name).map(|_| size_of::<u16>()),
            MdrPixelType::F32 => pointer(start.cast::<f32>(), name).map(|_| size_of::<f32>()),
        }?;
        let dense = grid.dense_strides();
        let strides = strides.unwrap_or(&dense);

        // Lowest and highest sample relative to `start`; i128 holds the sum of five products of 64 bits.
        let (mut lowest, mut highest) = (0_i128, 0_i128);
        for (&length, &stride) in grid.lengths.iter().zip(strides) {
            let reach = (length as i128 - 1) * i128::from(stride);
            lowest += reach.min(0);
            highest += reach.max(0);
        }
        let first = start.addr() as i128 + lowest * bytes as i128;
        let end = start.addr() as i128 + (highest + 1) * bytes as i128;
        if first < 1 || end > usize::MAX as i128 || end - first > isize::MAX as i128 {
            return Err(Failure::argument(format!("{name}: shape and strides lead outside the address space")));
        }
        // The reach of every stride fits an isize by the check above; that of an axis of length 1 is not used.
        let axis = |letter| match grid.letters.iter().position(|&l| l == letter) {
            Some(i) if grid.lengths[i] > 1 => strides[i] as isize,
            _ => 0,
        };
        Ok(Self {
            start: start.cast_mut().cast(),
            pixel_type,
            info: grid.info(engine_type(pixel_type))?,
            strides: ['T', 'C', 'Z', 'Y', 'X'].map(axis),
            extent: first as usize..end as usize,
        })
    }

    /// Whether some address lies within both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.extent.start < other.extent.end && other.extent.start < self.extent.end
    }

    /// Address of the first sample of each row of a plane.
    fn rows<T>(&self, PlaneIndex { t, c, z }: PlaneIndex) -> impl Iterator<Item = *mut T> {
        let Shape { t: times, c: channels, z: depth, y: rows, .. } = self.info.shape;
        assert!(t < times && c < channels && z < depth, "plane {t} {c} {z} of {:?}", self.info.shape);
        let [st, sc, sz, sy, _] = self.strides;
        let plane = t as isize * st + c as isize * sc + z as isize * sz;
        let start = self.start.cast::<T>();
        // `wrapping_offset`: the pointer is only formed here; what it leads to lies within `extent`.
        (0..rows).map(move |y| start.wrapping_offset(plane + y as isize * sy))
    }

    /// # Safety
    /// The samples are of type `T` and nobody changes them meanwhile.
    unsafe fn read<T: Copy + Into<f32>>(&self, index: PlaneIndex, samples: &mut [f32]) {
        let step = self.strides[4];
        for (start, row) in self.rows::<T>(index).zip(samples.chunks_exact_mut(self.info.shape.x)) {
            for (x, sample) in row.iter_mut().enumerate() {
                // SAFETY: row and column are inside the shape, so the address is inside the extent that the caller
                // described; it is aligned, because `start` was.
                *sample = unsafe { start.wrapping_offset(x as isize * step).read() }.into();
            }
        }
    }

    /// # Safety
    /// The samples are of type `T` and nobody else uses them meanwhile.
    unsafe fn write<T: Sample>(&mut self, index: PlaneIndex, samples: &[f32]) {
        let step = self.strides[4];
        for (start, row) in self.rows::<T>(index).zip(samples.chunks_exact(self.info.shape.x)) {
            for (x, &sample) in row.iter().enumerate() {
                // SAFETY: as in `read`.
                unsafe { start.wrapping_offset(x as isize * step).write(T::from_f32(sample)) };
            }
        }
    }
}

impl PlaneSource for Buffer {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        assert_eq!(samples.len(), self.info.shape.plane_len());
        // SAFETY: the type is the one that the caller stated, and `mdr_restore` obliges the caller to leave the
        // buffer alone while it runs.
        unsafe {
            match self.pixel_type {
                MdrPixelType::U8 => self.read::<u8>(index, samples),
                MdrPixelType::U16 => self.read::<u16>(index, samples),
                MdrPixelType::F32 => self.read::<f32>(index, samples),
            }
        }
        Ok(())
    }
}

impl PlaneSink for Buffer {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        assert_eq!(samples.len(), self.info.shape.plane_len());
        // SAFETY: as for reading; `mdr_restore` has refused an output that overlaps the input.
        unsafe {
            match self.pixel_type {
                MdrPixelType::U8 => self.write::<u8>(index, samples),
                MdrPixelType::U16 => self.write::<u16>(index, samples),
                MdrPixelType::F32 => self.write::<f32>(index, samples),
            }
        }
        Ok(())
    }
}

/// An image whose planes the caller's function `call` hands over or takes, one at a time, in a buffer of ours.
pub(super) struct Planes<F> {
    info: ImageInfo,
    call: F,
    /// Of one plane.
    buffer: Buffer,
    /// What `buffer` leads to: four bytes for each sample, whatever its type. Empty until the first plane, so that a
    /// run which is refused has taken none.
    memory: Vec<u32>,
}

/// The plane of a buffer that has one.
const PLANE: PlaneIndex = PlaneIndex { t: 0, c: 0, z: 0 };

impl<F: FnMut(PlaneIndex, *mut c_void) -> bool> Planes<F> {
    /// `call` fills the memory it is given with the plane, or takes the plane from it, and returns whether to go on.
    pub fn new(pixel_type: MdrPixelType, grid: &Grid, call: F) -> std::result::Result<Self, Failure> {
        let info = grid.info(engine_type(pixel_type))?;
        let plane = Grid { letters: vec!['Y', 'X'], lengths: vec![info.shape.y, info.shape.x] };
        let mut memory = Vec::<u32>::new();
        memory.try_reserve_exact(plane.len()?).map_err(|_| {
            Error::InvalidOption(format!("a plane of {} by {} pixels exceeds the memory", info.shape.y, info.shape.x))
        })?;
        let buffer = Buffer::new(memory.as_mut_ptr().cast(), pixel_type, &plane, None, "plane")?;
        Ok(Self { info, call, buffer, memory })
    }

    /// Fills the memory that `new` has reserved, which therefore stays where it is.
    fn fill(&mut self) {
        self.memory.resize(self.info.shape.plane_len(), 0);
    }

    fn call(&mut self, index: PlaneIndex) -> Result<()> {
        if (self.call)(index, self.memory.as_mut_ptr().cast()) { Ok(()) } else { Err(Error::Cancelled) }
    }
}

impl<F: FnMut(PlaneIndex, *mut c_void) -> bool> PlaneSource for Planes<F> {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        self.fill();
        self.call(index)?;
        self.buffer.read_plane(PLANE, samples)
    }
}

impl<F: FnMut(PlaneIndex, *mut c_void) -> bool> PlaneSink for Planes<F> {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        self.fill();
        self.buffer.write_plane(PLANE, samples)?;
        self.call(index)
    }
}

fn engine_type(pixel_type: MdrPixelType) -> PixelType {
    match pixel_type {
        MdrPixelType::U8 => PixelType::U8,
        MdrPixelType::U16 => PixelType::U16,
        MdrPixelType::F32 => PixelType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(axes: &str, lengths: &[usize]) -> std::result::Result<Grid, Failure> {
        assert_eq!(axes.len(), lengths.len());
        // SAFETY: one length for each letter.
        unsafe { Grid::new(axes, lengths.as_ptr()) }
    }

    fn message<T>(outcome: std::result::Result<T, Failure>) -> String {
        outcome.err().expect("a failure").message
    }

    #[test]
    fn axes_in_any_order() {
        let info = grid("xczy", &[2, 3, 4, 5]).unwrap().info(PixelType::U8).unwrap();
        assert_eq!(info.axes.as_str(), "CZYX");
        assert_eq!(info.shape, Shape { t: 1, c: 3, z: 4, y: 5, x: 2 });
        for axes in ["", "Y", "XZ", "YXX", "QYX", "YXé"] {
            // SAFETY: the axes are refused before the lengths are read.
            let refused = unsafe { Grid::new(axes, std::ptr::null()) };
            assert!(message(refused).contains("axes"), "{axes}");
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(message(grid("ZYX", &[2, 0, 3])).contains("length of Y is 0"));
        assert!(message(grid("YX", &[usize::MAX, 2])).contains("address space"));
        assert!(message(grid("YX", &[1 << 31, 1 << 31])).contains("address space"));
    }

    #[test]
    fn strides_outside_the_address_space_are_refused() {
        let grid = grid("YX", &[2, 3]).unwrap();
        let sample = [0.0_f32; 6];
        let start = sample.as_ptr().cast();
        for strides in [[i64::MAX, 1], [i64::MIN, 1], [1, i64::MAX], [i64::MAX, i64::MAX], [i64::MIN, i64::MAX]] {
            let buffer = Buffer::new(start, MdrPixelType::F32, &grid, Some(&strides), "input");
            assert!(message(buffer).contains("outside the address space"), "{strides:?}");
        }
        assert!(Buffer::new(start, MdrPixelType::F32, &grid, Some(&[3, 1]), "input").is_ok());
    }

    #[test]
    fn a_huge_stride_of_an_axis_of_length_1_is_not_used() {
        let grid = grid("YX", &[1, 3]).unwrap();
        let samples = [1.0_f32, 2.0, 3.0];
        let start = samples.as_ptr().cast();
        let mut buffer = Buffer::new(start, MdrPixelType::F32, &grid, Some(&[i64::MAX, 1]), "input").unwrap();
        let mut plane = [0.0; 3];
        buffer.read_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &mut plane).unwrap();
        assert_eq!(plane, samples);
    }

    #[test]
    fn negative_strides_and_their_extent() {
        let grid = grid("YX", &[2, 3]).unwrap();
        let samples = [0_u16, 1, 2, 3, 4, 5];
        let last = samples[5..].as_ptr().cast();
        let mut buffer = Buffer::new(last, MdrPixelType::U16, &grid, Some(&[-3, -1]), "input").unwrap();
        assert_eq!(buffer.extent, samples.as_ptr().addr()..samples.as_ptr_range().end.addr());
        let mut plane = [0.0; 6];
        buffer.read_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &mut plane).unwrap();
        assert_eq!(plane, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    }

    #[test]
    fn planes_go_where_the_axis_order_says() {
        // Channels interleaved, as RGB has them: sample (c, y, x) lies at (y·X + x)·C + c.
        let grid = grid("YXC", &[2, 3, 2]).unwrap();
        let mut samples = [0_u8; 12];
        let mut buffer = Buffer::new(samples.as_mut_ptr().cast(), MdrPixelType::U8, &grid, None, "output").unwrap();
        buffer.write_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        buffer.write_plane(PlaneIndex { t: 0, c: 1, z: 0 }, &[-1.0, 255.6, 9.5, 9.4, f32::NAN, 1e9]).unwrap();
        assert_eq!(samples, [0, 0, 1, 255, 2, 10, 3, 9, 4, 0, 5, 255]);
    }

    #[test]
    fn overlap_is_found() {
        let grid = grid("YX", &[1, 4]).unwrap();
        let bytes = [0_u8; 12];
        let at = |i: usize| Buffer::new(bytes[i..].as_ptr().cast(), MdrPixelType::U8, &grid, None, "b").unwrap();
        assert!(at(0).overlaps(&at(3)) && at(3).overlaps(&at(0)) && at(2).overlaps(&at(2)));
        assert!(!at(0).overlaps(&at(4)) && !at(4).overlaps(&at(0)));
    }
}
