/*! \file
 * mdr restores fluorescence micrographs. This is its C interface; the library is libmdr.
 *
 * Rules that hold for every function:
 *
 * - A function that can fail returns a status: 0 (MDR_STATUS_OK) or a number that says who must act. Results go
 *   through out-parameters, which are never read and are written only on success. Two exceptions: `needed` is
 *   also written with MDR_STATUS_BUFFER_TOO_SMALL, and pixels of `output` may have been written by a restoration
 *   that then failed or was cancelled.
 * - Parameters stand in the order handle, inputs, outputs. No pointer may be NULL unless its description says so.
 *   Every pointer must be aligned for its type. What can be detected of a wrong pointer (NULL, misaligned, input
 *   and output overlapping) is refused with MDR_STATUS_INVALID_ARGUMENT.
 * - `mdr_last_error` says in one line what went wrong in this thread's last call that returned a status.
 * - A model is opaque. `mdr_model_free` frees it; freeing NULL is fine. It never changes once it is loaded:
 *   several threads may use one at the same time, and the last of them frees it. It keeps up to 64 MB of the memory
 *   that it worked in for the next image: load a model once, not for every image.
 * - The caller allocates pixel and text buffers. The library returns no memory but models, and keeps no pointer
 *   that it was given once the call has returned.
 * - Text is UTF-8 that ends with NUL, paths too. Text comes out through `buffer`, `capacity` and `needed`:
 *   `needed` becomes the number of bytes with the final NUL, and where `capacity` is smaller, the status is
 *   MDR_STATUS_BUFFER_TOO_SMALL and `buffer` is left untouched. Ask with `buffer` NULL and `capacity` 0, allocate,
 *   ask again.
 * - Axes are distinct letters out of TCZYX (time, channel, Z, Y, X) in any order, Y and X among them; `shape` has
 *   one length for each, none of them 0. "YX" is a plane, "ZYX" a stack, "YXC" has its channels interleaved.
 * - Intensities are normalised per channel over the whole buffer, and taken back afterwards. NaN and infinite pixels
 *   are restored around: they stay what they are in float output; in integer output NaN becomes 0, and infinity the
 *   end of the range.
 * - Options are a JSON object; NULL or "{}" is right for nearly all. An unknown key is an error that names it.
 *   "tile": side in pixels of the tiles that the network sees; "overlap": pixels that neighbouring tiles share, at
 *   least; "threads"; "memory_limit_mb": bound on the working memory in 2^20 bytes, by default
 *   2048; "precise": true rounds as little as can be, at about half the speed; "self_ensemble": true takes the mean of
 *   the results for the image flipped and turned in eight ways (axial: four), a little nearer to the truth, in as many
 *   times the time; "channel": the one channel to restore, from 0; "pixel_size_um" and "z_step_um": calibration in
 *   micrometres, which axial restoration needs;
 *   "normalization": replaces the model's, for example {"kind":"percentile","low":2,"high":99.8}; "fitted": the
 *   statistics of each channel as `mdr_fit_planes` gives them; "task": replaces the model's, such as "axial"; "slices":
 *   true where an axial model gets XZ or YZ slices that are isotropic already.
 * - No panic leaves the library: it becomes MDR_STATUS_INTERNAL, and Rust prints where it was to stderr. The
 *   library installs no signal handler and keeps no state between calls but each thread's last error. A callback must
 *   return: no exception and no longjmp may leave it.
 * - Before anything else compare `mdr_abi_version()` with MDR_ABI_VERSION: where they differ, the library at hand is
 *   not the one that this header describes.
 *
 * Generated from src/ffi by safer-ffi: do not edit.
 */
#ifndef MDR_H
#define MDR_H
#ifdef __cplusplus
extern "C" {
#endif


#include <stddef.h>
#include <stdint.h>

/** \brief
 *  Version of this interface, which `mdr_abi_version` returns too. It grows whenever a function, a number or a
 *  meaning changes in a way that a program compiled earlier would notice.
 */
#define MDR_ABI_VERSION 1

/** \brief
 *  The MDR_ABI_VERSION of this library; compare it with the header's before anything else.
 */
uint32_t
mdr_abi_version (void);

/** \brief
 *  What became of a call: 0, or a number that says who must act. A number is never given a second meaning.
 *
 *  Treat a number that you do not know as MDR_STATUS_INTERNAL: later versions may add some.
 */
/** \remark Has the same ABI as `int32_t` **/
#ifdef DOXYGEN
typedef
#endif
enum MdrStatus {
    /** \brief
     *  Done; the results are written.
     */
    MDR_STATUS_OK = 0,
    /** \brief
     *  The calling program is wrong: a pointer that is NULL, misaligned or overlaps another, text that is not
     *  UTF-8, an unknown number, a length of 0, or lengths whose product overflows.
     */
    MDR_STATUS_INVALID_ARGUMENT = 1,
    /** \brief
     *  The text buffer has less room than `needed` says; nothing was written into it.
     */
    MDR_STATUS_BUFFER_TOO_SMALL = 2,
    /** \brief
     *  Image, model and buffer do not fit each other.
     */
    MDR_STATUS_SHAPE_MISMATCH = 3,
    /** \brief
     *  An option or task is unknown, malformed, or makes no sense for this image and model.
     */
    MDR_STATUS_INVALID_OPTION = 4,
    /** \brief
     *  The model is damaged, contradicts itself, or uses what mdr lacks.
     */
    MDR_STATUS_BAD_MODEL = 5,
    /** \brief
     *  The operating system refused to read or write a file, or the file is damaged.
     */
    MDR_STATUS_IO = 6,
    /** \brief
     *  The network failed while it ran.
     */
    MDR_STATUS_INFERENCE = 7,
    /** \brief
     *  A callback of the caller asked to stop.
     */
    MDR_STATUS_CANCELLED = 8,
    /** \brief
     *  A defect of mdr; please report it with the text of `mdr_last_error`.
     */
    MDR_STATUS_INTERNAL = 9,
}
#ifndef DOXYGEN
; typedef int32_t
#endif
MdrStatus_t;

/** \brief
 *  The models that are built into the library: a JSON array with one object for each, the facts that
 *  `mdr_model_facts` gives.
 *
 *  `buffer`: where the text goes; may be NULL if `capacity` is 0.
 *  `capacity`: bytes that `buffer` has.
 *  `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
 */
MdrStatus_t
mdr_builtin_models (
    char * buffer,
    size_t capacity,
    size_t * needed);

/** \brief
 *  Reads a TIFF file from its first to its last pixel and keeps nothing: for programs whose own readers take a file that
 *  is cut off or damaged for a whole one, which is MDR_STATUS_IO here. A TIFF of a kind that mdr does not read passes.
 *
 *  `path`: the file, in UTF-8 on every system.
 */
MdrStatus_t
mdr_check_tiff (
    char const * path);

/** \brief
 *  A loaded model. It never changes, so that several threads may use one at the same time.
 */
typedef struct MdrModel MdrModel_t;

/** \brief
 *  Type of the samples in a pixel buffer, in the byte order of the machine.
 */
/** \remark Has the same ABI as `int32_t` **/
#ifdef DOXYGEN
typedef
#endif
enum MdrPixelType {
    /** \brief
     *  `uint8_t`
     */
    MDR_PIXEL_TYPE_U8 = 1,
    /** \brief
     *  `uint16_t`
     */
    MDR_PIXEL_TYPE_U16 = 2,
    /** \brief
     *  `float`
     */
    MDR_PIXEL_TYPE_F32 = 3,
}
#ifndef DOXYGEN
; typedef int32_t
#endif
MdrPixelType_t;

/** \brief
 *  Takes the statistics by which `mdr_restore` normalises an image, so that a part of the image (a preview, one of
 *  many blocks) can be restored as the whole would be: given as the option "fitted", they replace the part's own. Runs
 *  no network.
 *
 *  `model`: the model.
 *  `read`: as in `mdr_restore_planes`; 0 stops with MDR_STATUS_CANCELLED.
 *  `input_type`: type of the samples that `read` hands over.
 *  `axes`: axes of the image.
 *  `shape`: length of each axis.
 *  `options`: JSON object; may be NULL.
 *  `user`: handed to `read`; may be NULL.
 *  `buffer`: where the text goes, a JSON array with one object for each channel that is restored; may be NULL if
 *  `capacity` is 0. The statistics are taken in every call: 100 bytes for each channel are enough for one to do.
 *  `capacity`: bytes that `buffer` has.
 *  `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
 */
MdrStatus_t
mdr_fit_planes (
    MdrModel_t const * model,
    int32_t (*read)(uint64_t, uint64_t, uint64_t, void *, void *),
    MdrPixelType_t input_type,
    char const * axes,
    size_t const * shape,
    char const * options,
    void * user,
    char * buffer,
    size_t capacity,
    size_t * needed);

/** \brief
 *  What went wrong in this thread's last call that returned a status; the empty text where it succeeded.
 *
 *  Never NULL. The text stays valid until this thread's next call that returns a status.
 */
char const *
mdr_last_error (void);

/** \brief
 *  Loads the built-in model for a task.
 *
 *  `task`: "denoise", "axial" or "super-resolve".
 *  `out`: becomes the model, to be freed with `mdr_model_free`.
 */
MdrStatus_t
mdr_model_builtin (
    char const * task,
    MdrModel_t * * out);

/** \brief
 *  Facts about a model as a JSON object: name, task, axes, channels, scale (output pixels per input pixel),
 *  normalization, axial_step, tile_multiple, halo, description, license, authors, trained_on, method, metrics, scores
 *  (the metrics in words), source, sha256.
 *  Take what you know and ignore the rest: later versions add keys.
 *
 *  `model`: the model.
 *  `buffer`: where the text goes; may be NULL if `capacity` is 0.
 *  `capacity`: bytes that `buffer` has.
 *  `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
 */
MdrStatus_t
mdr_model_facts (
    MdrModel_t const * model,
    char * buffer,
    size_t capacity,
    size_t * needed);

/** \brief
 *  Frees a model. No other thread may be using it. Leaves the last error as it is.
 *
 *  `model`: may be NULL; not usable any more afterwards.
 */
void
mdr_model_free (
    MdrModel_t * model);

/** \brief
 *  Loads a model from the bytes of an .onnx file.
 *
 *  `name`: what messages call the model.
 *  `bytes`: the file's content; not needed any more once this returns.
 *  `len`: number of bytes.
 *  `out`: becomes the model, to be freed with `mdr_model_free`.
 */
MdrStatus_t
mdr_model_from_memory (
    char const * name,
    uint8_t const * bytes,
    size_t len,
    MdrModel_t * * out);

/** \brief
 *  Loads a model from an .onnx file or a bioimage.io package (a folder, its rdf.yaml, or a .zip).
 *
 *  `path`: the file or folder, in UTF-8 on every system.
 *  `out`: becomes the model, to be freed with `mdr_model_free`.
 */
MdrStatus_t
mdr_model_load (
    char const * path,
    MdrModel_t * * out);

/** \brief
 *  What the result of `mdr_restore` will be, as a JSON object: axes and shape in the order of `axes`, pixel_size_um
 *  and z_step_um (micrometres, null where unknown; they follow from the options' calibration), provenance (model and
 *  options in one line, for the metadata of the image that is made of the result), and caution (one line for the user
 *  where the image is not such as the model was trained for, else null). Runs no network.
 *
 *  `model`: the model.
 *  `axes`: axes of the input.
 *  `shape`: length of each axis of the input.
 *  `options`: JSON object; may be NULL.
 *  `buffer`: where the text goes; may be NULL if `capacity` is 0.
 *  `capacity`: bytes that `buffer` has.
 *  `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
 */
MdrStatus_t
mdr_output_info (
    MdrModel_t const * model,
    char const * axes,
    size_t const * shape,
    char const * options,
    char * buffer,
    size_t capacity,
    size_t * needed);

/** \brief
 *  Lengths of the result of `mdr_restore`, from which the caller allocates `output`. Runs no network.
 *
 *  `model`: the model.
 *  `axes`: axes of the input.
 *  `shape`: length of each axis of the input.
 *  `options`: JSON object; may be NULL.
 *  `out_shape`: becomes the length of each axis of the result, which has the same axes in the same order; may be
 *  the same array as `shape`.
 */
MdrStatus_t
mdr_output_shape (
    MdrModel_t const * model,
    char const * axes,
    size_t const * shape,
    char const * options,
    size_t * out_shape);

/** \brief
 *  Restores an image.
 *
 *  `model`: the model.
 *  `input`: its samples; nobody may change them meanwhile.
 *  `input_type`: type of the samples of `input`.
 *  `axes`: axes of `input`, slowest first where `strides` is NULL.
 *  `shape`: length of each axis.
 *  `strides`: for each axis the distance of neighbours in `input`, in samples (not bytes), possibly negative, counted
 *  from `input`, which is the sample of index 0 along every axis; NULL if there are no gaps and the last axis runs
 *  fastest.
 *  `options`: JSON object; may be NULL.
 *  `progress`: called in the calling thread, at the start, after every tile and every 50 ms between, with the work done
 *  and the work in all, in hundredths of a tile, and `user`; 0 cancels, anything else goes on; may be NULL.
 *  `user`: handed to `progress`; may be NULL.
 *  `output`: receives the result without gaps, axes in the order of `axes`, lengths of `mdr_output_shape`; must not
 *  overlap `input`, the gaps between its samples included.
 *  `output_type`: type of the samples of `output`; integers are rounded (halves away from zero) and clamped.
 *  `output_len`: samples (not bytes) of `output`; must be the product of those lengths.
 */
MdrStatus_t
mdr_restore (
    MdrModel_t const * model,
    void const * input,
    MdrPixelType_t input_type,
    char const * axes,
    size_t const * shape,
    int64_t const * strides,
    char const * options,
    int32_t (*progress)(uint64_t, uint64_t, void *),
    void * user,
    void * output,
    MdrPixelType_t output_type,
    size_t output_len);

/** \brief
 *  Restores an image that is nowhere in memory as a whole: `read` hands over its planes, `write` takes those of the
 *  result. The pixels are those of `mdr_restore`.
 *
 *  Both functions are called in the calling thread, with the time point, channel and Z of the plane, each from 0,
 *  with memory for its samples (Y rows of X samples, without gaps, valid during the call), and with `user`. 0 stops
 *  the restoration, which then returns MDR_STATUS_CANCELLED; anything else goes on.
 *
 *  `model`: the model.
 *  `read`: fills the memory with a plane of the image; asked for each plane several times, for the statistics of the
 *  normalisation and for the network.
 *  `input_type`: type of the samples that `read` hands over.
 *  `axes`: axes of the image.
 *  `shape`: length of each axis.
 *  `options`: JSON object; may be NULL.
 *  `progress`: called in the calling thread, at the start, after every tile and every 50 ms between, with the work done
 *  and the work in all, in hundredths of a tile, and `user`; 0 cancels, anything else goes on; may be NULL.
 *  `user`: handed to `read`, `progress` and `write`; may be NULL.
 *  `write`: takes a plane of the result, whose lengths are those of `mdr_output_shape`; called once for each, in the
 *  order T, Z, C, C running fastest.
 *  `output_type`: type of the samples that `write` takes; integers are rounded (halves away from zero) and clamped.
 */
MdrStatus_t
mdr_restore_planes (
    MdrModel_t const * model,
    int32_t (*read)(uint64_t, uint64_t, uint64_t, void *, void *),
    MdrPixelType_t input_type,
    char const * axes,
    size_t const * shape,
    char const * options,
    int32_t (*progress)(uint64_t, uint64_t, void *),
    void * user,
    int32_t (*write)(uint64_t, uint64_t, uint64_t, void const *, void *),
    MdrPixelType_t output_type);

/** \brief
 *  Simulates an image with the defect that a task restores, for whoever has none at hand. The same on every call.
 *
 *  `task`: "denoise", "axial" or "super-resolve".
 *  `output`: receives the samples without gaps; may be NULL if `output_len` is 0, and then only the text is written.
 *  `output_len`: samples (not bytes) of `output`: 0, or the product of `shape`.
 *  `buffer`: where the text goes, a JSON object: axes, shape, pixel_size_um and z_step_um (null for a plane); may be NULL
 *  if `capacity` is 0; not asked for where samples are and `capacity` is 0.
 *  `capacity`: bytes that `buffer` has.
 *  `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
 */
MdrStatus_t
mdr_sample (
    char const * task,
    uint16_t * output,
    size_t output_len,
    char * buffer,
    size_t capacity,
    size_t * needed);

/** \brief
 *  Version of mdr, such as "0.1.0"; static text, never NULL.
 */
char const *
mdr_version (void);


#ifdef __cplusplus
} /* extern \"C\" */
#endif

#endif /* MDR_H */
