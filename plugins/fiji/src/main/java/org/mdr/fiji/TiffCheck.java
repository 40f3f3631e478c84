package org.mdr.fiji;

import java.io.EOFException;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashSet;
import java.util.Set;

/**
 * A TIFF file → an exception where its directories lead in a circle, or a field reaches beyond its end. ImageJ would read
 * such a file for minutes or for ever, or ask for memory that nobody has.
 */
final class TiffCheck {
    /** Bytes of a value, by the type of its field. */
    private static final int[] SIZES = {1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4};

    private TiffCheck() {}

    static void check(File path) {
        try (RandomAccessFile file = new RandomAccessFile(path, "r")) {
            ByteOrder order = read(file, 1, ByteOrder.BIG_ENDIAN).get(0) == 'I'
                    ? ByteOrder.LITTLE_ENDIAN
                    : ByteOrder.BIG_ENDIAN;
            file.seek(2);
            if (read(file, 2, order).getShort(0) != 42) {
                return;
            }
            Set<Integer> seen = new HashSet<>();
            for (int at = next(file, order); at != 0; at = next(file, order)) {
                if (!seen.add(at)) {
                    throw damaged("its directories lead in a circle");
                }
                file.seek(Integer.toUnsignedLong(at));
                int fields = Short.toUnsignedInt(read(file, 2, order).getShort(0));
                ByteBuffer directory = read(file, 12 * fields, order);
                while (directory.hasRemaining()) {
                    int tag = Short.toUnsignedInt(directory.getShort());
                    int type = Short.toUnsignedInt(directory.getShort());
                    long bytes = Integer.toUnsignedLong(directory.getInt()) * (type < SIZES.length ? SIZES[type] : 1);
                    long start = Integer.toUnsignedLong(directory.getInt());
                    if (bytes > 4 && start + bytes > file.length()) {
                        throw damaged("field " + tag + " reaches beyond its end");
                    }
                }
            }
        } catch (EOFException end) {
            // ImageJ notices that.
        } catch (IOException error) {
            throw new MdrException(MdrException.IO, "cannot be read: " + error.getMessage(), error);
        }
    }

    /** Where the next directory is. */
    private static int next(RandomAccessFile file, ByteOrder order) throws IOException {
        return read(file, 4, order).getInt(0);
    }

    private static ByteBuffer read(RandomAccessFile file, int bytes, ByteOrder order) throws IOException {
        byte[] buffer = new byte[bytes];
        file.readFully(buffer);
        return ByteBuffer.wrap(buffer).order(order);
    }

    private static MdrException damaged(String how) {
        return new MdrException(MdrException.IO, "is damaged: " + how);
    }
}
