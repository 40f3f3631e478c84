package org.mdr.fiji;

import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.LongFunction;

/**
 * A loaded model, the whole API without ImageJ.
 *
 * <pre>{@code
 * try (MdrModel model = MdrModel.builtIn("denoise")) {
 *     float[] restored = new float[height * width];
 *     model.restore(noisy, "YX", new long[] {height, width}, "{}", null, restored);
 * }
 * }</pre>
 *
 * Several threads may use one model at the same time; {@link #close} waits for them. Axes are letters out of TCZYX,
 * slowest first; options are a JSON object as mdr.h describes it, "{}" being right for nearly all. Whatever fails
 * throws {@link MdrException}.
 */
public final class MdrModel implements AutoCloseable {
    private final ReentrantReadWriteLock lock = new ReentrantReadWriteLock();
    private long handle;

    private MdrModel(long handle) {
        this.handle = handle;
    }

    /** The built-in model for a task: denoise, axial or super-resolve. */
    public static MdrModel builtIn(String task) {
        return new MdrModel(MdrNative.modelBuiltin(task));
    }

    /** A model from an .onnx file or a bioimage.io package (a folder, its rdf.yaml, or a .zip). */
    public static MdrModel load(String path) {
        return new MdrModel(MdrNative.modelLoad(path));
    }

    /** A model from the content of an .onnx file; messages call it {@code name}. */
    public static MdrModel fromBytes(String name, byte[] onnx) {
        return new MdrModel(MdrNative.modelFromMemory(name, onnx));
    }

    /** Facts about the models that need no file, one map each. */
    @SuppressWarnings("unchecked")
    public static List<Map<String, Object>> builtInModels() {
        return (List<Map<String, Object>>) Json.parse(MdrNative.builtinModels());
    }

    /** Version of libmdr. */
    public static String version() {
        return MdrNative.version();
    }

    /** Facts about this model: name, task, scale, licence and more; JSON's types as Java has them. */
    @SuppressWarnings("unchecked")
    public Map<String, Object> facts() {
        return (Map<String, Object>) Json.parse(call(MdrNative::modelFacts));
    }

    /** Length of each axis of the result. */
    public long[] outputShape(String axes, long[] shape, String options) {
        return call(model -> MdrNative.outputShape(model, axes, shape, options));
    }

    /** What the result will be: axes, shape, pixel_size_um, z_step_um, provenance. */
    @SuppressWarnings("unchecked")
    public Map<String, Object> outputInfo(String axes, long[] shape, String options) {
        return (Map<String, Object>) Json.parse(call(model -> MdrNative.outputInfo(model, axes, shape, options)));
    }

    /**
     * Restores an image that is one array.
     *
     * @param input byte[], short[] (both unsigned) or float[], without gaps
     * @param progress may be null
     * @param output byte[], short[] or float[] with room for exactly the product of {@link #outputShape}; integers are
     *     rounded and clamped
     */
    public void restore(
            Object input, String axes, long[] shape, String options, Progress progress, Object output) {
        call(model -> {
            MdrNative.restore(model, input, axes, shape, options, progress, output);
            return null;
        });
    }

    /** As {@link #restore}, plane by plane. */
    void restorePlanes(
            String axes,
            long[] shape,
            Pixels inputType,
            PlaneSource source,
            String options,
            Progress progress,
            Pixels outputType,
            PlaneSink sink) {
        long[] result = outputShape(axes, shape, options);
        int length = Math.toIntExact(shape[3] * shape[4]);
        Object input = inputType.allocate(Math.toIntExact(shape[0] * shape[1] * shape[2] * length));
        int n = 0;
        for (int t = 0; t < shape[0]; t++) {
            for (int c = 0; c < shape[1]; c++) {
                for (int z = 0; z < shape[2]; z++) {
                    System.arraycopy(source.read(t, c, z), 0, input, n++ * length, length);
                }
            }
        }
        int restoredLength = Math.toIntExact(result[3] * result[4]);
        Object output = outputType.allocate(Math.toIntExact(result[0] * result[1] * result[2] * restoredLength));
        restore(input, axes, shape, options, progress, output);
        n = 0;
        for (int t = 0; t < result[0]; t++) {
            for (int c = 0; c < result[1]; c++) {
                for (int z = 0; z < result[2]; z++) {
                    Object plane = outputType.allocate(restoredLength);
                    System.arraycopy(output, n++ * restoredLength, plane, 0, restoredLength);
                    sink.write(t, c, z, plane);
                }
            }
        }
    }

    /** Frees the model, once nobody is using it any more; a second time does nothing. */
    @Override
    public void close() {
        lock.writeLock().lock();
        try {
            long model = handle;
            handle = 0;
            if (model != 0) {
                MdrNative.modelFree(model);
            }
        } finally {
            lock.writeLock().unlock();
        }
    }

    private <T> T call(LongFunction<T> function) {
        lock.readLock().lock();
        try {
            if (handle == 0) {
                throw new MdrException(MdrException.INVALID_ARGUMENT, "the model has been closed");
            }
            return function.apply(handle);
        } finally {
            lock.readLock().unlock();
        }
    }
}
