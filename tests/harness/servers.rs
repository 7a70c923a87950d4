//! Servers of Debian's on a real server's machine, with nothing of this machine's own configuration.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::oneshot;

use crate::topology::{Real, run, socket};

impl Real {
    /// Starts OpenSSH on port 22 and returns where its log is.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_sshd(&mut self) -> PathBuf {
        let (key, log) = (self.folder().join("ssh-key"), self.folder().join("ssh.log"));
        let made = run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key));
        assert!(made.status.success(), "ssh-keygen: {made:?}");
        // It goes there to drop its rights; Debian makes it when the service starts.
        self.borrowed.push(Folder::borrow_from("/run/sshd".into()));
        let mut command = self.namespace.command("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f", "/dev/null", "-o", "UsePAM=no", "-h"])
            .arg(&key)
            .stderr(File::create(&log).expect("a log"));
        self.start("sshd", &mut command);
        self.wait_for_port(socket(&self.address, 22), &log);
        log
    }

    /// Starts MariaDB on port 3306, without a table to its name.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_mariadb(&mut self) {
        let folder = self.folder().join("mariadb");
        fs::create_dir(&folder).expect("a folder");
        let log = self.folder().join("mariadb.log");
        let path = folder.display();
        let mut command = self.namespace.command("/usr/sbin/mariadbd");
        command
            .args(["--no-defaults", "--skip-grant-tables", "--innodb=OFF"])
            .args([
                "--default-storage-engine=Aria",
                "--user=root",
                "--port=3306",
            ])
            // A name server would be asked for each client's name, before the greeting; here is none.
            .args(["--skip-name-resolve", "--bind-address=0.0.0.0"])
            .arg(format!("--datadir={path}"))
            .arg(format!("--socket={path}/socket"))
            .arg(format!("--pid-file={path}/pid"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"));
        self.start("mariadbd", &mut command);
        self.wait_for_port(socket(&self.address, 3306), &log);
    }

    /// Starts Redis on port 6379.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_redis(&mut self) {
        let log = self.folder().join("redis.log");
        let mut command = self.namespace.command("redis-server");
        command
            .args(["--port", "6379", "--bind", "0.0.0.0", "--save", ""])
            .args(["--protected-mode", "no", "--dir"])
            .arg(self.folder())
            .stdout(File::create(&log).expect("a log"))
            .stderr(Stdio::null());
        self.start("redis-server", &mut command);
        self.wait_for_port(socket(&self.address, 6379), &log);
    }

    /// Starts vsftpd on port 21 of both addresses: anybody may read `file`, which holds `name`. In answer to PASV it names
    /// `vip`, where clients find it.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_vsftpd(&mut self, vip: &str, name: &str) {
        let [files, empty] = ["ftp", "empty"].map(|name| self.folder().join(name));
        for folder in [self.folder(), &files, &empty] {
            fs::create_dir_all(folder).expect("a folder");
            // It reads them as another user.
            fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("open the folder");
        }
        fs::write(files.join("file"), format!("{name}\n")).expect("write the file");
        // One for each family: one that listens on both names 0.0.0.0 in answer to PASV.
        let families = [
            ("listen", "listen_address", self.address.clone()),
            ("listen_ipv6", "listen_address6", self.address6.clone()),
        ];
        for (listen, key, address) in families {
            let config = self.folder().join(format!("{listen}.conf"));
            let log = self.folder().join(format!("{listen}.log"));
            let [files, empty, log_path] = [&files, &empty, &log].map(|path| path.display());
            let text = format!(
                "listen=NO\n{listen}=YES\n{key}={address}\nbackground=NO\n\
                 anonymous_enable=YES\nno_anon_password=YES\nanon_root={files}\nsecure_chroot_dir={empty}\n\
                 seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\n\
                 pasv_address={vip}\npasv_min_port=30000\npasv_max_port=30999\nconnect_from_port_20=YES\n\
                 xferlog_enable=YES\nxferlog_std_format=NO\nlog_ftp_protocol=YES\nvsftpd_log_file={log_path}\n"
            );
            fs::write(&config, text).expect("write vsftpd's configuration");
            let mut command = self.namespace.command("/usr/sbin/vsftpd");
            command
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.start("vsftpd", &mut command);
            self.wait_for_port(socket(&address, 21), &log);
        }
    }
}

/// A folder that this machine must have while a test runs. Dropped, it goes unless it was there before.
pub(crate) struct Folder {
    path: PathBuf,
    is_ours: bool,
}

impl Folder {
    fn borrow_from(path: PathBuf) -> Self {
        let is_ours = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => panic!("cannot make {}: {error}", path.display()),
        };
        Self { path, is_ours }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = fs::remove_dir(&self.path)
        {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A TCP server of a test's own. Dropped, it ends.
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on this port of a real server, in both families: it gives `answer` each connection, one after the other.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(
        real: &Real,
        port: u16,
        mut answer: impl FnMut(TcpStream) + Send + 'static,
    ) -> Self {
        let listener = real
            .namespace
            .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
            .expect("enter the real server")
            .expect("listen");
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                answer(stream);
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits for a connection is told that there will be none.
        let ended = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// An agent that speaks HAProxy's language. Dropped, it ends.
pub struct Agent {
    line: Arc<Mutex<String>>,
    _server: Server,
}

impl Agent {
    /// Starts one on this port of a real server, which says this line.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(real: &Real, port: u16, line: &str) -> Self {
        let line = Arc::new(Mutex::new(format!("{line}\n")));
        let said = Arc::clone(&line);
        let server = Server::start(real, port, move |mut stream| {
            let line = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Whoever asked may have gone.
            let _ = stream.write_all(line.as_bytes());
        });
        Self {
            line,
            _server: server,
        }
    }

    /// What it says from now on.
    pub fn say(&self, line: &str) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = format!("{line}\n");
    }
}

/// A gRPC server with its health service. Dropped, it ends.
pub struct Grpc {
    /// Says of a service whether it serves.
    pub health: tonic_health::server::HealthReporter,
    _stop: oneshot::Sender<()>,
}

impl Grpc {
    /// Starts one on this port of a real server.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(real: &Real, port: u16) -> Self {
        let address = socket(&real.address, port);
        let listener = real
            .namespace
            .run(|| TcpListener::bind(address))
            .expect("enter the real server")
            .expect("listen");
        listener.set_nonblocking(true).expect("a socket");
        let (health, service) = tonic_health::server::health_reporter();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming_shutdown(
                        tonic::transport::server::TcpIncoming::from(listener),
                        async {
                            // Also when its sender is gone.
                            let _ = stopped.await;
                        },
                    )
                    .await
                    .expect("a server");
            });
        });
        Self {
            health,
            _stop: stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_folder_goes_unless_it_was_there_before() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("sshd");
        let first = Folder::borrow_from(path.clone());
        let second = Folder::borrow_from(path.clone());
        drop(second);
        assert!(path.exists(), "another's");
        drop(first);
        assert!(!path.exists(), "its own");
    }
}
