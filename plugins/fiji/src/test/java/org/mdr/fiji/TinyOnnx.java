package org.mdr.fiji;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/** Tiny ONNX models, written field by field as onnx.proto numbers them, so that no file need be stored. */
final class TinyOnnx {
    private TinyOnnx() {}

    /** Mean of 3×3 pixels, zeros beyond the border; {@code task} may be null. */
    static byte[] mean3(String task) {
        float[] ninth = new float[9];
        java.util.Arrays.fill(ninth, 1f / 9);
        byte[] weight = tensor("weight", new long[] {1, 1, 3, 3}, ninth);
        byte[] pads = new Message().text(1, "pads").number(20, 7).packed(8, 1, 1, 1, 1).bytes();
        byte[] node = new Message().text(1, "image").text(1, "weight").text(2, "y").text(4, "Conv").bytes(5, pads)
                .bytes();
        return model(task, node, weight);
    }

    /** Each pixel becomes 2×2. */
    static byte[] upsample2(String task) {
        byte[] scales = tensor("scales", new long[] {4}, new float[] {1, 1, 2, 2});
        byte[] node = new Message().text(1, "image").text(1, "").text(1, "scales").text(2, "y").text(4, "Resize")
                .bytes(5, attribute("mode", "nearest"))
                .bytes(5, attribute("coordinate_transformation_mode", "asymmetric"))
                .bytes(5, attribute("nearest_mode", "floor"))
                .bytes();
        return model(task, node, scales);
    }

    private static byte[] attribute(String name, String value) {
        return new Message().text(1, name).text(4, value).number(20, 3).bytes();
    }

    private static byte[] model(String task, byte[] node, byte[] initializer) {
        byte[] graph = new Message().bytes(1, node).text(2, "net").bytes(5, initializer).bytes(11, image("image"))
                .bytes(12, image("y")).bytes();
        Message model = new Message().number(1, 8).bytes(7, graph).bytes(8, new Message().number(2, 17).bytes());
        if (task != null) {
            model.bytes(14, new Message().text(1, "mdr.task").text(2, task).bytes());
        }
        return model.bytes();
    }

    private static byte[] image(String name) {
        Message shape = new Message();
        for (String length : new String[] {"n", "1", "h", "w"}) {
            Message dim = length.equals("1") ? new Message().number(1, 1) : new Message().text(2, length);
            shape.bytes(1, dim.bytes());
        }
        byte[] type = new Message().number(1, 1).bytes(2, shape.bytes()).bytes();
        return new Message().text(1, name).bytes(2, new Message().bytes(1, type).bytes()).bytes();
    }

    private static byte[] tensor(String name, long[] dims, float[] values) {
        ByteBuffer raw = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        raw.asFloatBuffer().put(values);
        return new Message().packed(1, dims).number(2, 1).text(8, name).bytes(9, raw.array()).bytes();
    }

    /** A protocol buffer. */
    private static final class Message {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();

        private void varint(long value) {
            for (; (value & ~0x7fL) != 0; value >>>= 7) {
                out.write((int) (value & 0x7f | 0x80));
            }
            out.write((int) value);
        }

        Message number(int field, long value) {
            varint(field << 3L);
            varint(value);
            return this;
        }

        Message bytes(int field, byte[] value) {
            varint(field << 3L | 2);
            varint(value.length);
            out.write(value, 0, value.length);
            return this;
        }

        Message text(int field, String value) {
            return bytes(field, value.getBytes(StandardCharsets.UTF_8));
        }

        Message packed(int field, long... values) {
            Message packed = new Message();
            for (long value : values) {
                packed.varint(value);
            }
            return bytes(field, packed.bytes());
        }

        byte[] bytes() {
            return out.toByteArray();
        }
    }
}
