// Hidden arguments come first, before anything heavy is loaded: the bundle is one file, and starts the children of core and jobs from itself.
export {};

switch (process.argv[2]) {
  case "--stowage-posix-child":
    process.argv.splice(2, 1);
    await import("@stowage/core/posix-child");
    break;
  case "--stowage-job-step":
    process.argv.splice(2, 1);
    await import("@stowage/jobs/step");
    break;
  default: {
    const { runCommandLine } = await import("./lib/command-line.ts");
    await runCommandLine(process.argv.slice(2));
  }
}
