import java.io.InputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Arrays;
import java.util.Random;

/** `serve PORT`: gives every connection its bytes back. `HOST PORT BYTES COUNT`: sends, receives and compares. */
public class Echo {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("serve")) {
            serve(Integer.parseInt(args[1]));
            return;
        }
        for (int serial = 0; serial < Integer.parseInt(args[3]); serial++) {
            byte[] wanted = new byte[Integer.parseInt(args[2])];
            new Random(serial).nextBytes(wanted);
            try (Socket socket = new Socket(args[0], Integer.parseInt(args[1]))) {
                Thread writer = new Thread(() -> {
                    try {
                        socket.getOutputStream().write(wanted);
                        socket.shutdownOutput();
                    } catch (Exception e) {
                        throw new RuntimeException(e);
                    }
                });
                writer.start();
                byte[] got = socket.getInputStream().readAllBytes();
                writer.join();
                if (!Arrays.equals(got, wanted)) {
                    throw new Exception(got.length + " bytes came back, not the " + wanted.length + " that were sent");
                }
            }
        }
        System.out.println("same");
    }

    static void serve(int port) throws Exception {
        try (ServerSocket listener = new ServerSocket(port)) {
            while (true) {
                Socket socket = listener.accept();
                new Thread(() -> {
                    try (socket; InputStream in = socket.getInputStream()) {
                        in.transferTo(socket.getOutputStream());
                    } catch (Exception e) {
                        e.printStackTrace();
                    }
                }).start();
            }
        }
    }
}
