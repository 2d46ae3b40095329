import { runPosixChild } from "./lib/posix/posix-child-main.ts";

runPosixChild();
