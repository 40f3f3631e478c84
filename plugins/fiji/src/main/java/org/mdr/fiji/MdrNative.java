package org.mdr.fiji;

/**
 * The native methods: the functions of mdr.h under their names in Java, once {@link Libraries#load} has returned.
 * Failures come as {@link MdrException}.
 */
final class MdrNative {
    private MdrNative() {}

    /** Opens libmdr, after which the other methods work; refuses one of another ABI version. */
    static native void open(String library);

    static native int abiVersion();

    static native String version();

    static native String builtinModels();

    static native long modelBuiltin(String task);

    static native long modelLoad(String path);

    static native long modelFromMemory(String name, byte[] onnx);

    static native void modelFree(long model);

    static native String modelFacts(long model);

    static native long[] outputShape(long model, String axes, long[] shape, String options);

    static native String outputInfo(long model, String axes, long[] shape, String options);

    /** Pixels are byte[], short[] (both unsigned) or float[], without gaps. */
    static native void restore(
            long model, Object input, String axes, long[] shape, String options, Progress progress, Object output);

    /** Types are those of mdr.h: 1, 2, 3 for byte, short, float. */
    static native void restorePlanes(
            long model,
            PlaneSource source,
            int inputType,
            String axes,
            long[] shape,
            String options,
            Progress progress,
            PlaneSink sink,
            int outputType);

    static native String fitPlanes(
            long model, PlaneSource source, int inputType, String axes, long[] shape, String options);

    /** Fails where a TIFF file is cut off or damaged. */
    static native void checkTiff(String path);

    /** A simulated image: its axes and shape as JSON where {@code output} is null, else its pixels. */
    static native String sample(String task, short[] output);
}
