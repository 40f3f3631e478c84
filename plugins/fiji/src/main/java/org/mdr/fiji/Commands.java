package org.mdr.fiji;

import ij.IJ;
import ij.Macro;
import ij.WindowManager;
import ij.macro.Interpreter;
import java.awt.GraphicsEnvironment;
import java.io.PrintWriter;

/** What the commands of the menu share: whether there is somebody to ask, and how a failure is told. */
final class Commands {
    private Commands() {}

    /** The options of the macro or script that called; null where a person did, who is to be shown a dialog. */
    static String macroOptions() {
        String options = Macro.getOptions();
        boolean nobody = GraphicsEnvironment.isHeadless() || Interpreter.isBatchMode();
        return options == null && nobody ? "" : options;
    }

    /**
     * Tells a failure: to a person in a dialog; to a macro or script as an exception, never in a dialog, which would
     * wait for somebody to press OK.
     */
    static void fail(String command, boolean interactive, RuntimeException failure) {
        boolean cancelled = cancelled(failure);
        IJ.showProgress(1.0);
        IJ.showStatus(cancelled ? command + " cancelled" : "");
        if (cancelled && interactive) {
            return;
        }
        if (cancelled) {
            // As ImageJ says it.
            throw new RuntimeException(Macro.MACRO_CANCELED, failure);
        }
        if (interactive) {
            IJ.error(command, message(failure));
            return;
        }
        throw new Failed(command, failure);
    }

    static boolean cancelled(RuntimeException failure) {
        return failure instanceof MdrException && ((MdrException) failure).status() == MdrException.CANCELLED;
    }

    static String message(RuntimeException failure) {
        // Anything but ours is a defect, of which the type says more than the message.
        return failure instanceof MdrException ? failure.getMessage() : failure.toString();
    }

    /**
     * A failure in a macro or script.
     *
     * <p>{@code IJ.run} runs a command by way of {@code ij.Executer}, which catches every exception, prints it by
     * {@link #printStackTrace(PrintWriter)} into a window, and goes on as if nothing had happened: a script could not
     * know, and a macro would go on with the wrong image. So does the macro function {@code call}. Asked by either to
     * print itself, this exception is thrown on instead, and ends where it belongs: in the {@code catch} of the script,
     * or at the end of the macro. Whoever else prints it sees the message alone.
     */
    static final class Failed extends MdrException {
        Failed(String command, RuntimeException failure) {
            super(
                    failure instanceof MdrException ? ((MdrException) failure).status() : MdrException.INTERNAL,
                    command + ": " + message(failure),
                    failure);
        }

        @Override
        public void printStackTrace(PrintWriter writer) {
            StackTraceElement[] stack = new Throwable().getStackTrace();
            String printer = stack.length > 1 ? stack[1].getClassName() : "";
            if (printer.equals("ij.Executer") || printer.equals("ij.macro.Functions")) {
                // What `IJ.run` would have put back.
                Macro.setOptions(null);
                WindowManager.setTempCurrentImage(null);
                throw this;
            }
            writer.println(getMessage());
        }
    }
}
