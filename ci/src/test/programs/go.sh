# A program of Go's, static, with the threads of its run time: what it says of a few files, but for times.
export PATH=/bin HOME=/root
mkdir -p /go/lib; cd /go
esbuild --version
echo 'export const a = (n) => n + 1; export const unused = 3;' > lib/a.js
echo 'import {a} from "./lib/a.js"; import data from "./d.json"; console.log(a(41), data.x);' > main.js
echo '{"x": [1, 2, 3]}' > d.json
esbuild --bundle --minify main.js; echo "-- $?"
esbuild --bundle main.js --outfile=out.js --sourcemap 2>&1 | grep -v Done; md5sum out.js out.js.map
i=0; while [ $i -lt 200 ]; do i=$((i + 1)); echo "export const x$i = $i * 2;" > lib/m$i.js; echo "export * from './m$i.js';"; done > lib/all.js
echo 'import * as all from "./lib/all.js"; console.log(all);' > many.js
esbuild --bundle many.js 2>&1 | md5sum; echo "-- $?"
echo 'import "./nothing.js"' > bad.js
esbuild --bundle bad.js 2>&1; echo "-- $?"
GOMAXPROCS=4 GOGC=5 esbuild --bundle --minify many.js | md5sum
